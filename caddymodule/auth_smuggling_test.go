package caddymodule_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// smuggled are headers by which somebody may try to be somebody else.
var smuggled = http.Header{
	"X-Http-Auth-User-Id":  {"root"},
	"Http.auth.user.id":    {"root"},
	"Remote-User":          {"root"},
	"X-Remote-User":        {"root"},
	"X-Forwarded-User":     {"root"},
	"X-Webauth-User":       {"root"},
	"X-Auth-Request-User":  {"root"},
	"User":                 {"{http.auth.user.id}"},
	"X-Placeholder":        {"{http.auth.user.id}"},
	"Cookie":               {"http.auth.user.id=root; user=root"},
	"Proxy-Authorization":  {"Basic cm9vdDpyb290"},
	"X-Forwarded-For":      {"{http.auth.user.id}"},
	"X-Registry-Caller":    {"root"},
	"Registry.caller":      {"root"},
	"X-Original-Url":       {"/v2/open/app/tags/list"},
	"X-Http-Method":        {"GET"},
	"X-Forwarded-Method":   {"GET"},
	"X-Method-Override":    {"GET"},
	"X-Amzn-Oidc-Identity": {"root"},
}

// TestHeadersMakeNobodySomebodyElse checks as whom requests count, in policies, in the
// placeholder that other handlers see, and in the access log.
func TestHeadersMakeNobodySomebodyElse(t *testing.T) {
	g := newGuarded(t)
	g.beside = "log\nheader >X-Seen-User \"{http.auth.user.id}\""
	g.run("policy ** {\nuser root read create update delete\nuser ci read\n}")
	keys := map[string]string{"": "", "ci": g.key("ci"), "{env.HOME}": g.key("{env.HOME}"), "{http.auth.user.id}": g.key("{http.auth.user.id}")}
	n := 0
	for user, key := range keys {
		header := smuggled.Clone()
		want, seen := "401 UNAUTHORIZED", "{http.auth.user.id}" // as a placeholder stays that stands for nothing
		if user != "" {
			seen = user
			header.Set("Authorization", basic(user, key).Get("Authorization"))
			want = "403 DENIED"
		}
		a := g.send(header, http.MethodPut, "/v2/team/app/manifests/v1", []byte(emptyIndex)...)
		if a.refusal() != want || a.header.Get("X-Seen-User") != seen {
			t.Errorf("%q: %s, seen as %q: %s", user, a.refusal(), a.header.Get("X-Seen-User"), a.body)
		}
		n++
		lines := g.log("http.log.access", "handled request")
		if len(lines) != n {
			t.Fatalf("%d lines in the access log, want %d", len(lines), n)
		}
		name := user
		if user == "" {
			name = "anonymous"
		}
		if line := lines[n-1]; line["user_id"] != user || line["registry_user"] != name {
			t.Errorf("%q: the access log has user_id %q and registry_user %q", user, line["user_id"], line["registry_user"])
		}
	}
}

// TestStrangersCannotSayHowTheyCame has a client that claims to come by TLS to another
// host. Only a proxy that is trusted may say so, and of the host not even that.
func TestStrangersCannotSayHowTheyCame(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	claimed := http.Header{
		"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Port": {"443"},
		"X-Forwarded-For": {"10.1.2.3"}, "Forwarded": {"for=10.1.2.3;host=evil.example;proto=https"},
	}
	for _, test := range []struct {
		name, proxies, scheme, cookie, address string
	}{
		{"a stranger", "", "http", sessionCookie, "127.0.0.1"},
		{"a stranger beside a proxy", "10.0.0.0/8", "http", sessionCookie, "127.0.0.1"},
		{"a proxy", "127.0.0.1/32", "https", "__Host-" + sessionCookie, "10.1.2.3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newGuarded(t)
			g.proxies = test.proxies
			g.run(provider("idp", idp) + "policy ** {\nauthenticated read\n}")
			challenge := fmt.Sprintf(`Bearer realm="%s://%s/auth/token",service="%s"`, test.scheme, g.host, g.host)
			if a := g.send(claimed, http.MethodGet, "/v2/"); a.header.Get("WWW-Authenticate") != challenge {
				t.Errorf("challenge %q, want %q", a.header.Get("WWW-Authenticate"), challenge)
			}
			a := g.send(claimed, http.MethodGet, "/auth/login/idp")
			location, err := url.Parse(a.header.Get("Location"))
			if want := test.scheme + "://" + g.host + "/auth/callback/idp"; err != nil || location.Query().Get("redirect_uri") != want {
				t.Errorf("sent to %s, %v", a.header.Get("Location"), err)
			}
			a = g.post(claimed, "/auth/session", url.Values{"key": {g.key("ci")}})
			c := a.cookieOf(test.cookie)
			if c == nil || c.Secure != (test.scheme == "https") || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
				t.Errorf("%d, cookies %q", a.status, a.header["Set-Cookie"])
			}
			lines := g.log("registry.audit", "login")
			if len(lines) != 1 || lines[0]["address"] != test.address {
				t.Errorf("audited: %v", lines)
			}
		})
	}
}

// TestAnotherSitesPageDoesNothing sends what a page of another site can make a browser
// send, which has the session's cookie.
func TestAnotherSitesPageDoesNothing(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	g := runGuarded(t, provider("idp", idp)+"policy ** {\nuser alice read create update delete\nuser ci read create\n}")
	g.open.putIndex("team/app", "v1", "1")
	upload := g.open.startUpload("team/app")
	session := g.signIn("idp")
	key := g.key("ci")
	form := url.Values{"do": {"create"}, "form": {"x"}, "label": {"stolen"}, "key": {key}}.Encode()
	requests := []struct {
		method, path, body string
		always             bool // also without a session
	}{
		{http.MethodPost, "/auth/apikey", `{"label":"stolen"}`, false},
		{http.MethodPost, "/zot/auth/apikey", `{"label":"stolen"}`, false},
		{http.MethodDelete, "/auth/apikey?id=x", "", false},
		{http.MethodPost, "/auth/apikey/rotate", "", false},
		{http.MethodPost, "/user/apikey", form, false},
		{http.MethodPost, "/auth/logout", "", true},
		{http.MethodPost, "/auth/session", form, true},
		{http.MethodPut, "/v2/team/app/manifests/v2", emptyIndex, false},
		{http.MethodDelete, "/v2/team/app/manifests/v1", "", false},
		{http.MethodPost, "/v2/team/app/blobs/uploads/", "", false},
		{http.MethodPatch, upload, "x", false},
		{http.MethodDelete, upload, "", false},
	}
	for name, values := range map[string][2]string{
		"another site":             {"Sec-Fetch-Site", "cross-site"},
		"another host of ours":     {"Sec-Fetch-Site", "same-site"},
		"another origin":           {"Origin", "https://evil.example"},
		"another port":             {"Origin", "http://127.0.0.1:1"},
		"a page without an origin": {"Origin", "null"},
	} {
		foreign := with(session, values[0], values[1])
		foreign.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, r := range requests {
			if a := g.send(foreign, r.method, r.path, []byte(r.body)...); a.status != http.StatusForbidden || a.header["Set-Cookie"] != nil {
				t.Errorf("%s: %s %s: %d %s", name, r.method, r.path, a.status, a.body)
			}
			if !r.always {
				continue
			}
			foreign := with(nil, values[0], values[1])
			if a := g.send(foreign, r.method, r.path, []byte(r.body)...); a.status != http.StatusForbidden || a.header["Set-Cookie"] != nil {
				t.Errorf("%s, without a session: %s %s: %d %s", name, r.method, r.path, a.status, a.body)
			}
		}
		// What comes with a key was not made by any page.
		mine := with(basic("ci", key), values[0], values[1])
		if a := g.send(mine, http.MethodPost, "/v2/team/app/blobs/uploads/"); a.status != http.StatusAccepted {
			t.Errorf("%s: a push with a key: %d %s", name, a.status, a.body)
		}
		if a := g.send(mine, http.MethodPost, "/auth/apikey/rotate"); a.status != http.StatusCreated {
			t.Errorf("%s: rotating a key: %d %s", name, a.status, a.body)
		}
		if a := g.send(foreign, http.MethodGet, "/v2/team/app/tags/list"); a.status != http.StatusOK || a.header["Access-Control-Allow-Origin"] != nil {
			t.Errorf("%s: reading: %d, %v", name, a.status, a.header)
		}
	}
	a := g.send(session, http.MethodGet, "/auth/apikey")
	if a.status != http.StatusOK || strings.TrimSpace(a.body) != `{"apiKeys":[]}` {
		t.Errorf("keys of the session: %d %s", a.status, a.body)
	}
	if a := g.open.get("/v2/team/app/tags/list"); strings.TrimSpace(a.body) != `{"name":"team/app","tags":["v1"]}` {
		t.Errorf("tags: %s", a.body)
	}
	if a := g.open.get(upload); a.status != http.StatusNoContent || a.header.Get("Range") != "0-0" {
		t.Errorf("the upload: %d, %v", a.status, a.header)
	}
	// The site's own pages may, and what no browser sent.
	for name, header := range map[string]http.Header{"its own page": with(session, "Sec-Fetch-Site", "same-origin"), "its own origin": with(session, "Origin", g.url()), "no browser": session} {
		if a := g.send(header, http.MethodPost, "/v2/team/app/blobs/uploads/"); a.status != http.StatusAccepted {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}
