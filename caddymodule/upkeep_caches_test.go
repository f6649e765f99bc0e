package caddymodule_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestCommandsAskUpstreamsWithTheServerUpOrDown refreshes a tag and repairs a blob of a
// copy, both ways.
func TestCommandsAskUpstreamsWithTheServerUpOrDown(t *testing.T) {
	up := upstreamtest.Start(t)
	first := up.AddImage("library/app", "v1", upstreamtest.Bytes(1, 1000))
	storage := filepath.Join(t.TempDir(), "storage")
	port := freePort(t)
	config := global(storage, "") + fmt.Sprintf(
		"http://127.0.0.1:%d {\n\tregistry_cache {\n\t\tupstream hub.test {\n\t\t\turl %s\n\t\t\tfresh 24h\n\t\t}\n\t}\n\tregistry\n}\n", port, up.URL())
	file := writeCaddyfile(t, config)
	run(t, config)
	s := site{t: t, host: fmt.Sprintf("127.0.0.1:%d", port)}
	layer := first.Layers[0]
	for _, path := range []string{"manifests/v1", "blobs/" + layer.Digest.String()} {
		if a := s.send(nil, http.MethodGet, "/v2/hub.test/library/app/"+path); a.status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
	}
	// The client has a blob before it is kept.
	await(t, "the blob is kept", func() bool { return strings.Contains(do(t, file, "stats", "--json"), `"blobs":1,`) })
	blob := filepath.Join(storage, "blobs", "sha256", layer.Digest.Encoded()[:2], layer.Digest.Encoded())
	for n, state := range []string{"up", "down"} {
		if state == "down" {
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		is := up.AddImage("library/app", "v1", upstreamtest.Bytes(uint64(n)+2, 1000)).Manifest.Digest.String()
		if out := do(t, file, "refresh", "hub.test/library/app:v1"); !strings.Contains(out, is+", was sha256:") {
			t.Errorf("%s: refresh: %s", state, out)
		}
		if out := do(t, file, "refresh", "hub.test/library/app:v1"); !strings.Contains(out, is+" still") {
			t.Errorf("%s: refresh again: %s", state, out)
		}
		if err := os.WriteFile(blob, []byte("wrong"), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := do(t, file, "verify", "--repair"); !strings.Contains(out, "fetched again from hub.test") || !strings.Contains(out, "1 damaged, 1 repaired") {
			t.Errorf("%s: verify: %s", state, out)
		}
		if content, err := os.ReadFile(blob); err != nil || string(content) != string(layer.Content) {
			t.Errorf("%s: it is not repaired: %v", state, err)
		}
		for args, want := range map[string]string{
			"refresh hub.test/library/app":         "REPOSITORY:TAG",
			"refresh team/app:v1":                  "no site of the configuration caches that",
			"refresh hub.test/library/absent:v1":   "not found",
			"refresh hub.test/library/app:not!tag": "tag",
		} {
			if out, err := command(t, append(strings.Fields(args), "--config", file)...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %q, %v, want %q", state, args, out, err, want)
			}
		}
	}
}
