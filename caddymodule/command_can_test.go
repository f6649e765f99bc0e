package caddymodule_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const severalSites = `{
	admin off
	registry {
		storage filesystem {env.NO_SUCH_PLACE}
	}
}
http://registry.example:8080, http://registry.local {
	registry_auth {
		policy docker.io/** {
			anonymous read
			group admins read delete
		}
		policy team/** secret {
			user alice read
			group artifact-workloads read create
			group artifact-workloads update tags latest buildcache*
		}
		policy open/** {
			anonymous read create
			authenticated update
		}
	}
	registry_cache {
		default docker.io
		upstream docker.io
	}
	registry
}
http://other.example {
	handle {
		registry_auth {
			policy ** {
				user alice read create update delete
			}
		}
		registry
	}
}
http://open.example {
	registry
}
`

func writeCaddyfile(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCanTellsWhatPoliciesDecide(t *testing.T) {
	file := writeCaddyfile(t, severalSites)
	for args, want := range map[string]string{
		"anonymous read docker.io/library/nginx":                     `yes: anonymous may read "docker.io/library/nginx": policy docker.io/** { anonymous read }`,
		"anonymous read docker.io/nginx":                             `yes: anonymous may read "docker.io/library/nginx": policy docker.io/** { anonymous read }`,
		"alice read docker.io/nginx:1.27":                            `yes: alice may read "docker.io/library/nginx:1.27": policy docker.io/** { anonymous read }`,
		"root --group admins delete docker.io/nginx:1":               `yes: root may delete "docker.io/library/nginx:1": policy docker.io/** { group admins read delete }`,
		"root --group admins create docker.io/nginx":                 `no: `,
		"root --group admins create quay.io/team/app":                `no: `,
		"anonymous read team/app":                                    `no: anonymous may not read "team/app": policy team/** secret { nothing for anonymous }`,
		"alice read team/app:v1":                                     `yes: alice may read "team/app:v1": policy team/** secret { user alice read }`,
		"alice create team/app:v1":                                   `no: alice may not create "team/app:v1": policy team/** secret { user alice read }`,
		"ci --group artifact-workloads create team/app:v1":           `yes: ci may create "team/app:v1": policy team/** secret { group artifact-workloads read create }`,
		"ci --group artifact-workloads update team/app:v1":           `no: ci may not update "team/app:v1": policy team/** secret { group artifact-workloads read create; group artifact-workloads update tags latest buildcache* }`,
		"ci --group artifact-workloads update team/app:latest":       `yes: ci may update "team/app:latest": policy team/** secret { group artifact-workloads update tags latest buildcache* }`,
		"ci --group artifact-workloads update team/app":              `yes: `,
		"ci --group x --group artifact-workloads create team/app:v1": `yes: `,
		"ci --group artifact-workloads,x create team/app:v1":         `no: `,
		"alice delete team/app":                                      `no: `,
		"alice read elsewhere/app":                                   `no: alice may not read "elsewhere/app": no policy names it`,
		"anonymous create open/app:v1":                               `yes: `,
		"anonymous update open/app:v1":                               `no: `,
		"bob update open/app:v1":                                     `yes: bob may update "open/app:v1": policy open/** { authenticated update }`,
		"alice read secret@sha256:" + strings.Repeat("0", 64):        `yes: `,
		"alice delete secret@sha256:" + strings.Repeat("0", 64):      `no: `,
		"--site other.example alice delete team/app":                 `yes: alice may delete "team/app": policy ** { user alice read create update delete }`,
		"--site other.example bob read team/app":                     `no: bob may not read "team/app": policy ** { nothing for bob }`,
		"--site other.example alice read docker.io/nginx":            `yes: alice may read "docker.io/nginx": policy ** { user alice read create update delete }`,
		"--site other.example alice create docker.io/nginx":          `no: `,
		"--site registry.local alice read team/app":                  `yes: `,
	} {
		words := append([]string{"can", "--config", file}, strings.Fields(args)...)
		if !strings.Contains(args, "--site") {
			words = append(words, "--site", "registry.example")
		}
		out, err := command(t, words...)
		got := "yes: " + out
		if err != nil {
			got = "no: " + out
		}
		line, isLine := strings.CutSuffix(got, "\n")
		exact := strings.HasSuffix(want, "}") || strings.HasSuffix(want, "it")
		if !isLine || strings.Contains(line, "\n") || exact && line != want || !strings.HasPrefix(line, want) {
			t.Errorf("%s: %q, %v, want %q", args, got, err, want)
		}
	}
}

// TestCanAsksForNoSiteWhereAllDecideAlike, as one that is served without TLS too.
func TestCanAsksForNoSiteWhereAllDecideAlike(t *testing.T) {
	file := writeCaddyfile(t, `registry.example, http://:5050 {
	registry_auth {
		policy ** {
			anonymous read
		}
	}
	registry
}
`)
	if out, err := command(t, "can", "--config", file, "anonymous", "read", "team/app"); err != nil || !strings.Contains(out, "policy **") {
		t.Errorf("%q, %v", out, err)
	}
}

func TestCanRefusesWhatItCannotAnswer(t *testing.T) {
	several := writeCaddyfile(t, severalSites)
	open := writeCaddyfile(t, "http://:1 {\n\tregistry\n}\n")
	for args, want := range map[string]string{
		several + " alice read team/app":                                 "--site",
		several + " --site none.example alice read team/app":             "none.example",
		several + " --site open.example alice read team/app":             "open.example",
		several + " --site other.example alice pull team/app":            `unknown action "pull"`,
		several + " --site other.example alice read Team/App":            "Team/App",
		several + " --site other.example alice read team/app:":           "nothing follows",
		several + " --site other.example alice read":                     "accepts 3 arg(s)",
		several + " --site other.example alice read team/app more":       "accepts 3 arg(s)",
		several + " --site other.example alice create team/app:not!atag": "not!atag",
		open + " alice read team/app":                                    "no site of the configuration has registry_auth",
		filepath.Join(t.TempDir(), "none") + " alice read team/app":      "--config",
	} {
		file, rest, _ := strings.Cut(args, " ")
		out, err := command(t, append([]string{"can", "--config", file}, strings.Fields(rest)...)...)
		if err == nil || strings.Contains(out, "{") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, %v, want %q", rest, out, err, want)
		}
	}
}

// TestCanAnswersAsTheServerDoes asks both about the same, by tag and by digest.
func TestCanAnswersAsTheServerDoes(t *testing.T) {
	g := runGuarded(t, "policy tags/** {\nuser ci read\nuser ci create delete tags *\n}\n"+createPolicy)
	key := bearer(g.key("ci", "--group", "artifact-workloads"))
	for _, name := range []string{"tags/app", "team/app"} {
		g.open.putIndex(name, "v1", "1")
		content := index("1")
		byDigest := "@" + digest.FromBytes(content).String()
		for _, test := range []struct {
			action, reference, method string
			content                   []byte
		}{
			{"read", ":v1", http.MethodGet, nil},
			{"read", byDigest, http.MethodGet, nil},
			{"create", ":v2", http.MethodPut, index("2")},
			{"create", byDigest, http.MethodPut, content},
			{"update", ":v1", http.MethodPut, index("2")},
			{"delete", byDigest, http.MethodDelete, nil},
			{"delete", ":v1", http.MethodDelete, nil},
		} {
			out, err := g.command("can", "ci", "--group", "artifact-workloads", test.action, name+test.reference)
			a := g.send(key, test.method, "/v2/"+name+"/manifests/"+test.reference[1:], test.content...)
			if (err == nil) != (a.status < 400) {
				t.Errorf("%s %s%s: the command says %q, %v; the server %d %s", test.action, name, test.reference, out, err, a.status, a.body)
			}
			// By a digest the server names no tag.
			if a.status >= 400 && test.reference != byDigest && strings.TrimSpace(out) != a.message() {
				t.Errorf("%s %s%s: the command says %q, the server %q", test.action, name, test.reference, out, a.message())
			}
		}
	}
}
