package caddymodule_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
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
			if status, body := get(t, fmt.Sprintf("http://localhost:%d/v2/", port)); status != http.StatusOK {
				t.Errorf("/v2/: %d %s", status, body)
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), "README.md")); err != nil {
				t.Error(err)
			}
		})
	}
}
