package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// wantHealth fails the test unless /readyz answers with a status and names what is
// degraded, and by which words.
func (s site) wantHealth(code int, status string, degraded ...string) {
	s.t.Helper()
	a := s.get("/readyz")
	var told struct {
		Status   string
		Degraded []struct{ Name, Reason string }
	}
	if err := json.Unmarshal([]byte(a.body), &told); err != nil {
		s.t.Fatalf("%v: %s", err, a.body)
	}
	if a.status != code || told.Status != status || len(told.Degraded) != len(degraded) || told.Degraded == nil {
		s.t.Fatalf("/readyz: %d %s, want %d %s %s", a.status, a.body, code, status, degraded)
	}
	for i, want := range degraded {
		if got := told.Degraded[i].Name + ": " + told.Degraded[i].Reason; !strings.Contains(got, want) {
			s.t.Errorf("%q is degraded, want %q", got, want)
		}
	}
	if a := s.get("/livez"); a.status != http.StatusOK || a.body != "ok\n" {
		s.t.Errorf("/livez: %d %s", a.status, a.body)
	}
}

func TestReadyNamesWhatIsDegraded(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	dir := filepath.Join(t.TempDir(), "storage")
	s := newSite(t)
	config := global(dir, "") + s.caddyfile(fmt.Sprintf(`registry_auth {
		oidc away {
			issuer http://127.0.0.1:%d/
			client_id x
			client_secret y
		}
		policy ** {
			anonymous read create
		}
	}
	registry_cache {
		%s
	}
	registry`, freePort(t), cached("hub.example", hub, "fresh 1ns")))
	run(t, config)

	const away = "identity provider away: cannot be used"
	s.wantHealth(http.StatusOK, "degraded", away)
	if a := s.ask(http.MethodPost, "/readyz"); a.status != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz: %d", a.status)
	}
	blob := "/v2/hub.example/team/app/blobs/" + image.Config.Digest.String()
	s.get("/v2/hub.example/team/app/manifests/1")
	s.get(blob)
	s.awaitKept("hub.example/team/app", image.Config)

	hub.Down()
	for i := range 3 {
		s.get(fmt.Sprintf("/v2/hub.example/team/app/manifests/none-%d", i))
	}
	s.wantHealth(http.StatusOK, "degraded", "upstream hub.example: does not answer", away)
	if a := s.get(blob); a.status != http.StatusOK {
		t.Errorf("what is here is not served: %d", a.status)
	}

	own := []byte("own")
	pushed := digest.FromBytes(own)
	if a := s.ask(http.MethodPost, "/v2/team/app/blobs/uploads/?digest="+pushed.String(), own...); a.status != http.StatusCreated {
		t.Fatalf("push: %d %s", a.status, a.body)
	}
	file := filepath.Join(dir, "blobs", "sha256", pushed.Encoded()[:2], pushed.Encoded())
	if err := os.WriteFile(file, []byte("0wn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, "verify", "--config", writeCaddyfile(t, config)); err == nil {
		t.Fatalf("verify finds nothing: %s", out)
	}
	s.wantHealth(http.StatusOK, "degraded", "storage: 1 blob damaged", "upstream hub.example", away)

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.wantHealth(http.StatusServiceUnavailable, "unavailable", "storage: cannot be read", "upstream hub.example", away)
}

func TestAMirrorAloneTellsOfItsHealth(t *testing.T) {
	hub := upstreamtest.Start(t)
	s := runSite(t, "registry_cache {\n"+cached("hub.example", hub)+"}")
	s.wantHealth(http.StatusOK, "ready")
}

// TestMetricsTellWhatWasAnswered each once, whichever handler answered.
func TestMetricsTellWhatWasAnswered(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	s := runSite(t, "metrics /metrics\nregistry_cache {\n"+cached("hub.example", hub)+"}\nregistry")
	counts := func() map[string]string {
		found := make(map[string]string)
		for line := range strings.Lines(s.get("/metrics").body) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "registry_") {
				found[name] = value
			}
		}
		return found
	}
	before := counts()
	blob := "/v2/hub.example/team/app/blobs/"
	s.get("/v2/")
	s.get("/v2/_catalog")
	s.get("/v2/hub.example/team/app/manifests/1")
	s.get("/v2/hub.example/team/app/manifests/none")
	s.get(blob + image.Config.Digest.String())
	s.push("own/app", "1")
	s.get("/v2/own/app/manifests/1")
	s.ask(http.MethodDelete, "/v2/own/app/manifests/1")
	s.ask(http.MethodPut, "/v2/hub.example/team/app/manifests/2", []byte(emptyIndex)...)
	s.push("own/app", "2")
	s.get("/v2/nonsense")
	s.awaitKept("hub.example/team/app", image.Config)
	after := counts()
	for name, want := range map[string]int{
		`registry_requests_total{code="200",operation="ping"}`:               1,
		`registry_requests_total{code="200",operation="catalog"}`:            1,
		`registry_requests_total{code="200",operation="manifest"}`:           2,
		`registry_requests_total{code="404",operation="manifest"}`:           1,
		`registry_requests_total{code="201",operation="manifest_push"}`:      2,
		`registry_requests_total{code="405",operation="manifest_push"}`:      1,
		`registry_requests_total{code="202",operation="manifest_delete"}`:    1,
		`registry_requests_total{code="404",operation="none"}`:               1,
		`registry_request_duration_seconds_count{operation="manifest"}`:      3,
		`registry_request_duration_seconds_count{operation="manifest_push"}`: 3,
	} {
		var was, is int
		fmt.Sscan(before[name], &was)
		if _, err := fmt.Sscan(after[name], &is); err != nil || is-was != want {
			t.Errorf("%s grew from %d to %d, want by %d", name, was, is, want)
		}
	}
	for name, want := range map[string]string{
		`registry_repositories{namespace="private"}`:      "1",
		`registry_repositories{namespace="hub.example"}`:  "1",
		`registry_storage_bytes{namespace="hub.example"}`: fmt.Sprint(image.Config.Size),
		`registry_damaged_blobs`:                          "0",
	} {
		if after[name] != want {
			t.Errorf("%s is %q, want %q", name, after[name], want)
		}
	}
	free := 0
	for name := range after {
		if strings.HasPrefix(name, "registry_storage_free_bytes{") || strings.HasPrefix(name, "registry_storage_size_bytes{") {
			free++
		}
	}
	if free != 2 {
		t.Errorf("%d metrics tell of the disk, want 2", free)
	}
}
