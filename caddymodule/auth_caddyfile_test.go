package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

const (
	needsOIDC = "issuer https://id.example\nclient_id registry\n"
	needsJob  = "issuer https://forge.example\naudience registry\nmatch repository eblume/*\n"
)

// TestWrongAuthOptionsAreRefusedWithTheirLine has each wrong option marked: its line is the
// one that must be named.
func TestWrongAuthOptionsAreRefusedWithTheirLine(t *testing.T) {
	oidc := func(options string) string { return "oidc idp {\n" + needsOIDC + options + "\n}" }
	job := func(options string) string { return "workload_identity ci {\n" + needsJob + options + "\n}" }
	policy := func(line string) string { return "policy ** {\n" + line + "\n}" }
	for options, want := range map[string]string{
		"colour red #!":         `unrecognized option "colour"`,
		"oidc #!":               "",
		"oidc a b #!":           "",
		"oidc Authentik #!":     "Authentik",
		"oidc {env.NAME} #!":    "env.NAME",
		"oidc idp {\n} #!above": "issuer is needed",
		"oidc idp { #!\nissuer https://id.example\n}":                            "client_id is needed",
		oidc("colour red #!"):                                                    `unrecognized option "colour"`,
		oidc("client_id again #!"):                                               "client_id is given twice",
		oidc("client_secret #!"):                                                 "",
		oidc("client_secret a b #!"):                                             "",
		"oidc idp {\nissuer id.example #!\nclient_id r\n}":                       "must begin with http",
		"oidc idp {\nissuer ftp://id #!\nclient_id r\n}":                         "must begin with http",
		"oidc idp {\nissuer https://u:p@id #!\nclient_id r\n}":                   "user or password",
		oidc("scopes #!"):                                                        "",
		oidc("scopes email #!"):                                                  "openid must be among them",
		oidc("callback_path callback #!"):                                        "slash",
		oidc("callback_path /a?b #!"):                                            "no query",
		oidc("callback_path /a%2fb #!"):                                          "escaped",
		oidc("callback_path /a/../b #!"):                                         "dots",
		oidc("callback_path / #!"):                                               "",
		oidc("callback_path /v2/callback #!"):                                    "/v2",
		oidc("callback_path /auth/token #!"):                                     "/auth/token",
		oidc("callback_path /zot/auth/apikey/rotate #!"):                         "/zot/auth/apikey",
		oidc("refresh soon #!"):                                                  `invalid duration "soon"`,
		oidc("refresh 0s #!"):                                                    "must be positive",
		oidc("prefix a:b #!"):                                                    "colon",
		oidc("") + "\noidc idp {\n#!above":                                       "idp",
		oidc("") + "\noidc two { #!\nissuer https://two.example\nclient_id r\n}": "prefix is needed",
		oidc("") + "\noidc two { #!\nissuer https://id.example/\nclient_id r\nprefix two-\n}":                                         "issuer",
		oidc("callback_path /back") + "\noidc two { #!\nissuer https://two.example\nclient_id r\nprefix two-\ncallback_path /back\n}": "callback_path /back",
		"workload_identity #!":                                                "",
		"workload_identity ci {\n} #!above":                                   "issuer is needed",
		"workload_identity ci { #!\nissuer https://f\nmatch a b\n}":           "audience is needed",
		"workload_identity ci { #!\nissuer https://f\naudience a\n}":          "at least one match is needed",
		job("match repository other/* #!"):                                    "repository is given twice",
		job("match ref #!"):                                                   "no glob is given",
		job("match #!"):                                                       "",
		job("match ref [ #!"):                                                 "[",
		job("match ref {env.REF} #!"):                                         "placeholders",
		job("user {claim.repository #!"):                                      "",
		job("user ci:{env.NAME} #!"):                                          "claim",
		job("groups {claim.} #!"):                                             "claim",
		job("groups #!"):                                                      "",
		job("jwks_url keys #!"):                                               "must begin with http",
		job("audience again #!"):                                              "audience is given twice",
		job("secret x #!"):                                                    `unrecognized option "secret"`,
		oidc("") + "\nworkload_identity idp { #!\n" + needsJob + "}":          "idp",
		"api_keys now #!":                                                     "",
		"api_keys {\nlifetime soon #!\n}":                                     `invalid duration "soon"`,
		"api_keys {\nlifetime 1d\nlifetime 2d #!\n}":                          "lifetime is given twice",
		"api_keys {\nmax #!\n}":                                               `unrecognized option "max"`,
		"api_keys { #!\nlifetime 400d\n}":                                     "lifetime must not be over max_lifetime",
		"api_keys { #!\nlifetime 3d\nmax_lifetime 2d\n}":                      "lifetime must not be over max_lifetime",
		"api_keys {\n}\napi_keys { #!\n}":                                     "api_keys is given twice",
		"policy {\nanonymous read\n} #!above2":                                "",
		"policy [ { #!\nanonymous read\n}":                                    "[",
		"policy ** {\n} #!above":                                              "at least one rule is needed",
		policy("everybody read #!"):                                           `unknown subject "everybody"`,
		policy("anonymous #!"):                                                "no action is given",
		policy("anonymous pull #!"):                                           `unknown action "pull"`,
		policy("anonymous read read #!"):                                      "read is given twice",
		policy("anonymous read tags v* #!"):                                   "read cannot be limited to tags",
		policy("group ci create tags #!"):                                     "tags",
		policy("group ci create tags [ #!"):                                   "[",
		policy("group ci create tags v* update #!"):                           "update",
		policy("group ci tags v* #!"):                                         "no action is given",
		policy("group #!"):                                                    "group needs a name",
		policy("user alice #!"):                                               "no action is given",
		policy("user {env.USER} read #!"):                                     "placeholders",
		policy("user read #!"):                                                "no action is given",
		policy("anonymous read") + "\npolicy team/** { #!\nanonymous read\n}": "can never decide",
		"policy team/** {\nanonymous read\n}\npolicy other/** team/** { #!\nanonymous read\n}": "can never decide for team/**",
		"admins #!":              "",
		"admins anonymous #!":    "anonymous cannot be an admin",
		"admins root #!":         `unknown subject "root"`,
		"admins group #!":        "group needs a name",
		"admins group a b #!":    "",
		"public_url #!":          "",
		"public_url registry #!": "registry",
		"public_url https://registry.example/path #!":                   "no path",
		"public_url https://a.example\npublic_url https://b.example #!": "public_url is given twice",
	} {
		caddyfile := "http://:1 {\nregistry_auth {\n" + options + "\n}\n}"
		before, after, ok := strings.Cut(caddyfile, "#!")
		if !ok {
			t.Fatalf("nothing is marked in %q", options)
		}
		line := 1 + strings.Count(before, "\n")
		if strings.HasPrefix(after, "above2") {
			line -= 2
		} else if strings.HasPrefix(after, "above") {
			line--
		}
		_, err := tryAdapt(caddyfile)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("Caddyfile:%d", line)) {
			t.Errorf("%q: error %v, want %q at line %d", options, err, want, line)
		}
	}
	for caddyfile, want := range map[string]string{
		"http://:1 {\nregistry_auth /v2/* now\n}":                                 "Caddyfile:2",
		"http://:1 {\nregistry_ui /x now\n}":                                      "Caddyfile:2",
		"http://:1 {\nregistry_ui {\ncolour red\n}\n}":                            `unrecognized option "colour", at Caddyfile:3`,
		"{\nregistry_auth {\n}\n}\nhttp://:1 {\n}\n":                              "registry_auth",
		"http://:1 {\nregistry_auth {\npolicy ** {\nanonymous read {\n}\n}\n}\n}": "Caddyfile:",
	} {
		if _, err := tryAdapt(caddyfile); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", caddyfile, err, want)
		}
	}
}

// TestWrongAuthOptionsDoNotStart has what is only known where the server runs.
func TestWrongAuthOptionsDoNotStart(t *testing.T) {
	t.Setenv("TEST_EMPTY", "")
	t.Setenv("TEST_WRONG", "not: a url")
	missing := filepath.Join(t.TempDir(), "none")
	oidc := func(options string) string { return "oidc idp {\n" + options + "\n}" }
	job := func(options string) string {
		return "workload_identity ci {\nmatch repository eblume/*\n" + options + "\n}"
	}
	for options, wants := range map[string][]string{
		oidc(needsOIDC + "client_secret {env.NO_SUCH_SECRET}"):                     {"oidc idp", "client_secret", "env.NO_SUCH_SECRET"},
		oidc(needsOIDC + "client_secret {env.TEST_EMPTY}"):                         {"oidc idp", "client_secret", "env.TEST_EMPTY"},
		oidc(needsOIDC + "client_secret {file." + missing + "}"):                   {"oidc idp", "client_secret", missing},
		oidc("issuer {env.NO_SUCH_ISSUER}\nclient_id a"):                           {"oidc idp", "issuer", "env.NO_SUCH_ISSUER"},
		oidc("issuer {env.TEST_WRONG}\nclient_id a"):                               {"oidc idp", "issuer", "must begin with http"},
		oidc("issuer https://id.example\nclient_id {env.NO_SUCH_ID}"):              {"oidc idp", "client_id", "env.NO_SUCH_ID"},
		oidc(needsOIDC + "callback_path {env.TEST_WRONG}"):                         {"oidc idp", "callback_path"},
		oidc(needsOIDC + "scopes {env.TEST_WRONG}"):                                {"oidc idp", "scopes"},
		oidc(needsOIDC + "refresh {env.TEST_WRONG}"):                               {"oidc idp", "refresh"},
		oidc(needsOIDC + "prefix {env.NO_SUCH_PREFIX}"):                            {"oidc idp", "prefix", "env.NO_SUCH_PREFIX"},
		job("issuer {env.NO_SUCH_ISSUER}\naudience a"):                             {"workload_identity ci", "issuer", "env.NO_SUCH_ISSUER"},
		job("issuer https://forge.example\naudience {env.NO_SUCH_AUDIENCE}"):       {"workload_identity ci", "audience", "env.NO_SUCH_AUDIENCE"},
		job("issuer https://forge.example\naudience a\nca_file " + missing):        {"workload_identity ci", "ca_file", missing},
		job("issuer https://forge.example\naudience a\njwks_url {env.TEST_WRONG}"): {"workload_identity ci", "jwks_url"},
		"api_keys {\nmax_lifetime {env.NO_SUCH_TIME}\n}":                           {"api_keys", "max_lifetime", "env.NO_SUCH_TIME"},
		"public_url {env.TEST_WRONG}":                                              {"public_url"},
	} {
		dir := filepath.Join(t.TempDir(), "storage")
		var config caddy.Config
		if err := json.Unmarshal(adapt(t, global(dir, "")+"http://127.0.0.1:1 {\nregistry_auth {\n"+options+"\n}\nregistry\n}"), &config); err != nil {
			t.Fatal(err)
		}
		err := caddy.Validate(&config)
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error %v, want %q in it", options, err, want)
			}
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%q: %s was made: %v", options, dir, err)
		}
	}
}

// TestSecretsAndURLsTakePlaceholders and names in policies do not.
func TestSecretsAndURLsTakePlaceholders(t *testing.T) {
	g, idp := runWithProvider(t)
	secret := g.path("secret")
	option := provider("idp", idp)
	_, quoted, _ := strings.Cut(option, "client_secret ")
	quoted, _, _ = strings.Cut(quoted, "\n")
	if err := os.WriteFile(secret, []byte(strings.Trim(quoted, `"`)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEST_ISSUER", idp.Issuer())
	t.Setenv("TEST_CLIENT", "registry")
	g.run("oidc idp {\nissuer {env.TEST_ISSUER}\nclient_id {env.TEST_CLIENT}\nclient_secret {file." + secret + "}\n}\npolicy ** {\nuser alice read\n}")
	if a := g.send(g.signIn("idp"), "GET", "/v2/team/app/tags/list"); a.status != 404 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestValidationAsksNoIssuer of providers and jobs that are not there.
func TestValidationAsksNoIssuer(t *testing.T) {
	asked := startForge(t)
	asked.Close()
	var config caddy.Config
	options := asked.option() + "oidc idp {\nissuer " + asked.URL + "\nclient_id a\n}\n"
	if err := json.Unmarshal(adapt(t, global(t.TempDir(), "")+"http://127.0.0.1:1 {\nregistry_auth {\n"+options+"\n}\nregistry\n}"), &config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&config); err != nil {
		t.Error(err)
	}
}

func TestAccessControlGoesFirstInAnyOrder(t *testing.T) {
	config := string(adapt(t, "http://127.0.0.1:1 {\nrespond below\nregistry\nregistry_ui\nregistry_cache {\nupstream docker.io\n}\nregistry_auth {\npolicy ** {\nanonymous read\n}\n}\n}"))
	last := -1
	for _, handler := range []string{"registry_auth", "registry_cache", "registry_ui", "registry", "static_response"} {
		i := strings.Index(config, `"handler":"`+handler+`"`)
		if i <= last {
			t.Errorf("%s is out of order in %s", handler, config)
		}
		last = i
	}
}

// TestASiteThatNothingGuardsIsWarnedOf and one with access control is not.
func TestASiteThatNothingGuardsIsWarnedOf(t *testing.T) {
	const warning = "there is no access control"
	for name, test := range map[string]struct {
		directives string
		warned     bool
	}{
		"nothing":        {"registry", true},
		"access control": {"registry_auth {\npolicy ** {\nanonymous read\n}\n}\nregistry", false},
		"pages":          {"registry_ui\nregistry", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			log := filepath.Join(t.TempDir(), "log")
			run(t, strings.Replace(global(t.TempDir(), ""), "output discard", "output file "+log, 1)+s.caddyfile(test.directives))
			s.get("/v2/team/app/tags/list")
			content, err := os.ReadFile(log)
			if err != nil || strings.Contains(string(content), warning) != test.warned {
				t.Errorf("warned: %v, want %v, %v\n%s", !test.warned, test.warned, err, content)
			}
		})
	}
}

// TestAccessControlGuardsWhatIsInBlocks of handlers beside it, too, as people write them.
func TestAccessControlGuardsWhatIsInBlocks(t *testing.T) {
	for _, block := range []string{
		"handle /v2/* {\nregistry\n}\nhandle {\nrespond below\n}", "route {\nregistry\n}", "handle {\nroute /v2/* {\nregistry_cache {\nupstream docker.io\n}\nregistry\n}\n}",
	} {
		port := freePort(t)
		run(t, global(t.TempDir(), "")+fmt.Sprintf("http://127.0.0.1:%d {\n%s\nregistry_auth {\npolicy ** {\nuser alice read\n}\n}\n}", port, block))
		for _, path := range []string{"/v2/", "/v2/team/app/tags/list", "/v2/_catalog"} {
			if status, body := get(t, fmt.Sprintf("http://127.0.0.1:%d%s", port, path)); status != http.StatusUnauthorized {
				t.Errorf("%s: %s: %d %s", block, path, status, body)
			}
		}
	}
}
