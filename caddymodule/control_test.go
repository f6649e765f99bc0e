package caddymodule

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/storage"
)

// testApp returns the app of a configuration with the given storage directory.
func testApp(t *testing.T, dir string) *App {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	config := fmt.Sprintf("{\n\tregistry {\n\t\tstorage filesystem %s\n\t}\n}\n", dir)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	app, err := loadApp(file)
	if err != nil {
		t.Fatal(err)
	}
	return app
}

// TestCommandsReachTheRegistry asks a server, and after its end the storage itself,
// also where the path is too long for a socket.
func TestCommandsReachTheRegistry(t *testing.T) {
	for name, dir := range map[string]string{
		"short path": filepath.Join(t.TempDir(), "r"),
		"long path":  filepath.Join(t.TempDir(), strings.Repeat("long/", 30)),
	} {
		t.Run(name, func(t *testing.T) {
			server := testApp(t, dir)
			opened, err := server.open()
			if err != nil {
				t.Fatal(err)
			}
			m, err := storage.ParseManifest("application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2,"manifests":[]}`), "sha256")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := opened.registry.PutManifest(t.Context(), "a/b", m, storage.Put{Tags: []string{"v1", "v2"}}); err != nil {
				t.Fatal(err)
			}
			ask(t, dir, func(client *controlClient) {
				checkStats(t, client, storage.Stats{Repositories: 1, Manifests: 1, Tags: 2})
				deleteOK(t, client, "a/b", "v1")
				checkStats(t, client, storage.Stats{Repositories: 1, Manifests: 1, Tags: 1})
				err := client.do(t.Context(), http.MethodDelete, "/content?repository=a/b&reference=v1", new(struct{}))
				if err == nil || !strings.Contains(err.Error(), `tag "v1" is not in repository "a/b"`) || strings.Contains(err.Error(), "\n") {
					t.Errorf("deleting it again: %v", err)
				}
			})
			if err := server.Cleanup(); err != nil {
				t.Fatal(err)
			}
			ask(t, dir, func(client *controlClient) {
				checkStats(t, client, storage.Stats{Repositories: 1, Manifests: 1, Tags: 1})
				deleteOK(t, client, "a/b", "")
			})
			ask(t, dir, func(client *controlClient) { checkStats(t, client, storage.Stats{}) })
		})
	}
}

// ask does what a command does.
func ask(t *testing.T, dir string, do func(*controlClient)) {
	t.Helper()
	client, err := newControlClient(t.Context(), testApp(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	do(client)
	if err := client.close(); err != nil {
		t.Error(err)
	}
}

func checkStats(t *testing.T, client *controlClient, want storage.Stats) {
	t.Helper()
	var got storage.Stats
	if err := client.do(t.Context(), http.MethodGet, "/stats", &got); err != nil || got != want {
		t.Errorf("%v, got %+v, want %+v", err, got, want)
	}
}

func deleteOK(t *testing.T, client *controlClient, repository, reference string) {
	t.Helper()
	if err := client.do(t.Context(), http.MethodDelete, "/content?repository="+repository+"&reference="+reference, new(struct{})); err != nil {
		t.Error(err)
	}
}
