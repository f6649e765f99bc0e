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

// TestExamplesStart runs each example's Caddyfile, with a port and a place of the test's.
func TestExamplesStart(t *testing.T) {
	files, err := filepath.Glob("../examples/*/Caddyfile")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
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
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), "README.md")); err != nil {
				t.Error(err)
			}
		})
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
