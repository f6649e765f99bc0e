package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/libdns/libdns"
	"go.yaml.in/yaml/v3"
)

// dnsProvider stands for those of other modules, which examples name: it takes a token and
// does nothing.
type dnsProvider struct {
	ID    string `json:"-"`
	Token string `json:"token,omitempty"`

	libdns.RecordAppender `json:"-"`
	libdns.RecordDeleter  `json:"-"`
}

func init() {
	for _, name := range []string{"cloudflare", "gandi"} {
		caddy.RegisterModule(&dnsProvider{ID: "dns.providers." + name})
	}
}

func (p *dnsProvider) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: caddy.ModuleID(p.ID), New: func() caddy.Module { return &dnsProvider{ID: p.ID} }}
}

func (p *dnsProvider) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&p.Token) {
		return d.ArgErr()
	}
	return nil
}

// exampleFiles returns the examples' Caddyfiles.
func exampleFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../examples/*/Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	return files
}

// TestExamplesAreValid as they are, with what they want from the environment.
func TestExamplesAreValid(t *testing.T) {
	for _, name := range []string{"OIDC_CLIENT_SECRET", "GANDI_BEARER_TOKEN", "CLOUDFLARE_API_TOKEN"} {
		t.Setenv(name, "secret")
	}
	for name, value := range map[string]string{
		"REGISTRY_DATABASE_URL": "postgres://registry@localhost/registry",
		"S3_ENDPOINT":           "http://localhost:7070", "S3_BUCKET": "images", "S3_KEY": "registry", "S3_SECRET": "secret",
	} {
		t.Setenv(name, value)
	}
	t.Setenv("HOME", t.TempDir())
	t.Setenv("REGISTRY_STORAGE", t.TempDir())
	for _, file := range exampleFiles(t) {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if formatted := caddyfile.Format(content); string(formatted) != string(content) {
				t.Errorf("caddy fmt would make it\n%s", formatted)
			}
			var config caddy.Config
			if err := json.Unmarshal(adapt(t, string(content)), &config); err != nil {
				t.Fatal(err)
			}
			if err := caddy.Validate(&config); err != nil {
				t.Error(err)
			}
			readme, err := os.ReadFile(filepath.Join(filepath.Dir(file), "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			if want := "--config examples/" + filepath.Base(filepath.Dir(file)) + "/Caddyfile"; !strings.Contains(string(readme), want) {
				t.Errorf("its README does not start it: no %q", want)
			}
		})
	}
}

// TestExamplesStart runs each example that has a port of the environment's.
func TestExamplesStart(t *testing.T) {
	started := 0
	for _, file := range exampleFiles(t) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(content), "{$REGISTRY_PORT:5050}") {
			continue // it is for a host of its own
		}
		started++
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			port := freePort(t)
			t.Setenv("REGISTRY_PORT", fmt.Sprint(port))
			t.Setenv("REGISTRY_STORAGE", t.TempDir())
			if err := caddy.Load(adapt(t, string(content)), true); err != nil {
				t.Fatal(err)
			}
			defer caddy.Stop()
			want := http.StatusOK
			if strings.Contains(string(content), "registry_auth") {
				want = http.StatusUnauthorized // with a challenge, though all may pull
			}
			if status, body := get(t, fmt.Sprintf("http://localhost:%d/v2/", port)); status != want {
				t.Errorf("/v2/: %d %s, want %d", status, body, want)
			}
		})
	}
	if started == 0 {
		t.Error("there are none")
	}
}

// TestClientFilesOfTheMirrorNameIt checks what no test here can start.
func TestClientFilesOfTheMirrorNameIt(t *testing.T) {
	for _, name := range []string{"hosts.toml", "daemon.json", "registries.conf", "buildkitd.toml", "registries.yaml"} {
		content, err := os.ReadFile("../examples/mirror/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(content), "localhost:5050") {
			t.Errorf("%s does not name the mirror of the Caddyfile", name)
		}
		if strings.HasSuffix(name, ".json") && !json.Valid(content) {
			t.Errorf("%s is no JSON", name)
		}
		for _, upstream := range []string{"docker.io", "ghcr.io", "quay.io"} {
			all := name != "hosts.toml" && name != "daemon.json" // which are for any, and for Docker Hub
			if all && !strings.Contains(string(content), upstream) {
				t.Errorf("%s does not name %s", name, upstream)
			}
		}
	}
}

// TestTheBlueprintIsWhatTheCaddyfileAsksFor: what is there of one must be there of the
// other. Authentik itself cannot be started here.
func TestTheBlueprintIsWhatTheCaddyfileAsksFor(t *testing.T) {
	blueprint, err := os.ReadFile("../examples/blumeops/authentik/registry.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("../examples/blumeops/Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	var entries struct {
		Entries []struct {
			Model       string
			Identifiers map[string]string
			Attrs       yaml.Node
		}
	}
	if err := yaml.Unmarshal(blueprint, &entries); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, entry := range entries.Entries {
		for name, value := range entry.Identifiers {
			found[entry.Model+" "+name+" "+value] = true
		}
	}
	for _, want := range []string{
		"authentik_core.group name admins", "authentik_core.group name artifact-workloads", "authentik_core.user username zot-ci",
		"authentik_providers_oauth2.oauth2provider name zot", "authentik_core.application slug zot",
	} {
		if !found[want] {
			t.Errorf("the blueprint has no %s", want)
		}
	}
	scopes := regexp.MustCompile(`(?m)^\s*scopes (.*)$`).FindSubmatch(config)
	if scopes == nil {
		t.Fatal("the Caddyfile names no scopes")
	}
	for _, scope := range strings.Fields(string(scopes[1])) {
		if !strings.Contains(string(blueprint), "[scope_name, "+scope+"]") {
			t.Errorf("the provider grants no scope %s", scope)
		}
	}
	for _, both := range []string{"client_id: zot|client_id zot", "https://registry.ops.eblu.me/zot/auth/callback/oidc|callback_path /zot/auth/callback/oidc", "OIDC_CLIENT_SECRET|{env.OIDC_CLIENT_SECRET}"} {
		there, here, _ := strings.Cut(both, "|")
		if !strings.Contains(string(blueprint), there) || !strings.Contains(string(config), here) {
			t.Errorf("the blueprint has no %s, or the Caddyfile no %s", there, here)
		}
	}
}
