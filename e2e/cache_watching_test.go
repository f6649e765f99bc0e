//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestCacheTellsWhatItDoes pulls what is new, what is here, what is confirmed and what
// cannot be, and looks at headers, metrics and the access log.
func TestCacheTellsWhatItDoes(t *testing.T) {
	up := upstreamtest.Start(t)
	layer := upstreamtest.Bytes(1, 1<<20)
	image := up.AddImage("library/alpine", "v1", layer)
	p := startCache(t, cached("docker.io", up.URL(), "fresh v* 1ms", "fresh latest forever"), "default docker.io")
	up.AddImage("library/alpine", "latest", layer)
	send := p.client()
	if got, want := mustPull(t, send, "library/alpine", "latest", image), []string{"miss", "miss", "miss"}; !slices.Equal(got, want) {
		t.Errorf("at first: %v", got)
	}
	// A client has the last byte before it is on disk for all others.
	p.eventually("no transfer is under way", func() bool { return p.metric(`registry_transfers_active{upstream="docker.io"}`) == 0 })
	if got, want := mustPull(t, send, "library/alpine", "latest", image), []string{"hit", "hit", "hit"}; !slices.Equal(got, want) {
		t.Errorf("again: %v", got)
	}
	if got, want := mustPull(t, send, "library/alpine", "v1", image), []string{"miss", "hit", "hit"}; !slices.Equal(got, want) {
		t.Errorf("by another tag: %v", got)
	}
	time.Sleep(2 * time.Millisecond) // longer than v1 is fresh
	if got, want := mustPull(t, send, "library/alpine", "v1", image), []string{"revalidated", "hit", "hit"}; !slices.Equal(got, want) {
		t.Errorf("when it is not fresh any more: %v", got)
	}
	absent := "/v2/library/alpine/manifests/absent"
	for range 2 {
		a := expect(t, http.StatusNotFound)(send(http.MethodGet, absent, nil, nil))
		if got := a.header.Get("X-Registry-Cache"); got != "" {
			t.Errorf("what is not there has X-Registry-Cache: %s", got)
		}
	}
	if up := p.metric(`registry_upstream_up{upstream="docker.io"}`); up != 1 {
		t.Errorf("registry_upstream_up is %v, want 1", up)
	}
	requests := p.metric(`registry_upstream_requests_total{code="200",upstream="docker.io"}`)
	if asked := float64(len(up.Requests().Filter(func(r upstreamtest.Request) bool { return r.Status == 200 }))); requests != asked {
		t.Errorf("registry_upstream_requests_total is %v, the upstream answered %v times", requests, asked)
	}
	up.Down()
	for range 3 { // failures, after which it is left alone
		if got, want := mustPull(t, send, "library/alpine", "v1", image), []string{"stale", "hit", "hit"}; !slices.Equal(got, want) {
			t.Errorf("in an outage: %v", got)
		}
		expect(t, http.StatusBadGateway)(send(http.MethodGet, "/v2/library/new/manifests/v1", nil, nil))
	}
	for sample, want := range map[string]float64{
		`registry_cache_requests_total{result="miss",upstream="docker.io"}`:        4,
		`registry_cache_requests_total{result="revalidated",upstream="docker.io"}`: 1,
		`registry_cache_requests_total{result="stale",upstream="docker.io"}`:       3,
		`registry_cache_requests_total{result="hit",upstream="docker.io"}`:         3 + 2 + 2 + 3*2,
		`registry_cache_requests_total{result="negative",upstream="docker.io"}`:    1,
		`registry_cache_bytes_total{source="upstream",upstream="docker.io"}`:       float64(image.Size() + image.Manifest.Size), // it was asked for by two tags
		`registry_cache_bytes_total{source="cache",upstream="docker.io"}`:          float64(6 * (image.Size() - image.Manifest.Size)),
		`registry_upstream_up{upstream="docker.io"}`:                               0,
		`registry_transfers_active{upstream="docker.io"}`:                          0,
	} {
		if got := p.metric(sample); got != want {
			t.Errorf("%s is %v, want %v", sample, got, want)
		}
	}

	wantLogged(t, p, "/v2/library/alpine/manifests/v1", "docker.io/library/alpine", "manifest", "miss", "revalidated", "stale", "stale", "stale")
	wantLogged(t, p, "/v2/library/alpine/manifests/latest", "docker.io/library/alpine", "manifest", "miss", "hit")
	wantLogged(t, p, absent, "docker.io/library/alpine", "manifest", "", "negative")
	wantLogged(t, p, "/v2/library/new/manifests/v1", "docker.io/library/new", "manifest", "", "", "")
	blob := "/v2/library/alpine/blobs/" + digest.FromBytes(layer).String()
	wantLogged(t, p, blob, "docker.io/library/alpine", "blob", "miss", "hit", "hit", "hit", "hit", "hit", "hit")
	expect(t, http.StatusOK)(send(http.MethodGet, "/v2/library/alpine/tags/list", nil, nil))
	wantLogged(t, p, "/v2/library/alpine/tags/list", "docker.io/library/alpine", "tags", "stale")
	mustPush(t, send, "team/app", "v1", []byte("own"))
	wantLogged(t, p, "/v2/team/app/manifests/v1", "team/app", "manifest_push", "")
}

// wantLogged fails the test unless the access log tells of requests for a path, each
// with what the cache did.
func wantLogged(t *testing.T, p *process, path, repository, operation string, results ...string) {
	t.Helper()
	var entries []accessEntry
	p.eventually("requests for "+path+" are logged", func() bool { // which they are once they are over
		entries = p.accessLog(path)
		return len(entries) >= len(results)
	})
	var got []string
	for _, entry := range entries {
		if entry.Repository != repository || entry.Operation != operation {
			t.Errorf("%s is logged as %s of %q, want %s of %q", path, entry.Operation, entry.Repository, operation, repository)
		}
		got = append(got, entry.Cache)
	}
	if !slices.Equal(got, results) {
		t.Errorf("%s is logged as %q, want %q", path, got, results)
	}
}

// TestTransferIsCountedWhileItLasts looks at a transfer that is under way.
func TestTransferIsCountedWhileItLasts(t *testing.T) {
	up := upstreamtest.Start(t)
	layer := upstreamtest.Bytes(1, 1<<20)
	up.AddImage("o/x", "v1", layer)
	p := startCache(t, cached("ghcr.io", up.URL()))
	up.SetRate(1 << 20)
	client := p.open(blobPath("ghcr.io/o/x", layer))
	if err := client.take(1000); err != nil {
		t.Fatal(err)
	}
	sample := `registry_transfers_active{upstream="ghcr.io"}`
	if active := p.metric(sample); active != 1 {
		t.Errorf("%s is %v in the middle of a transfer", sample, active)
	}
	if err := client.end(digest.FromBytes(layer)); err != nil {
		t.Fatal(err)
	}
	p.eventually("no transfer is under way", func() bool { return p.metric(sample) == 0 })
}

// TestNamespaceTellsWhoseImage: what a request says by ns is what it gets, or nothing.
func TestNamespaceTellsWhoseImage(t *testing.T) {
	hub, other := upstreamtest.Start(t), upstreamtest.Start(t)
	both := cacheCaddyfile(cached("docker.io", hub.URL()), cached("ghcr.io", other.URL()), "default docker.io", "local_hosts "+ownName)
	p := newProcess(t, both+"\nhttp://second.example.com:{$PORT} {\n\tbind 127.0.0.1\n\tregistry\n}\n")
	p.start()
	send := p.client()
	images := map[string]upstreamtest.Image{
		"docker.io": hub.AddImage("o/x", "v1", upstreamtest.Bytes(1, 100)),
		"ghcr.io":   other.AddImage("o/x", "v1", upstreamtest.Bytes(2, 100)),
	}
	own := mustPush(t, send, "o/x", "v1", []byte("own"))
	for ns, image := range images {
		for _, path := range []string{"/v2/o/x/manifests/v1", "/v2/" + ns + "/o/x/manifests/v1", "/v2/o/x/tags/list", "/v2/o/x/blobs/" + image.Config.Digest.String()} {
			a := expect(t, http.StatusOK)(send(http.MethodGet, path+"?ns="+ns, nil, nil))
			if got := a.header.Get("OCI-Namespace"); got != ns {
				t.Errorf("%s?ns=%s is answered with OCI-Namespace %q", path, ns, got)
			}
			if strings.Contains(path, "/manifests/") && digest.FromBytes(a.body) != image.Manifest.Digest {
				t.Errorf("%s?ns=%s is another registry's image", path, ns)
			}
		}
	}
	for _, ns := range []string{ownName, "127.0.0.1:" + p.port} {
		a := expect(t, http.StatusOK)(send(http.MethodGet, "/v2/o/x/manifests/v1?ns="+ns, nil, nil))
		if got := a.header.Get("OCI-Namespace"); got != ns || digest.FromBytes(a.body) != digest.FromBytes(own) {
			t.Errorf("ns=%s: OCI-Namespace %q, image %s", ns, got, digest.FromBytes(a.body))
		}
	}
	hub.Reset()
	other.Reset()
	for _, ns := range []string{"quay.io", "127.0.0.1", "docker.io.example.com", "%2e", "docker.io/"} {
		for _, path := range []string{"/v2/o/x/manifests/v1", "/v2/docker.io/o/x/manifests/v1", "/v2/o/new/tags/list", "/v2/o/x/blobs/" + images["ghcr.io"].Config.Digest.String()} {
			a := expect(t, http.StatusNotFound)(send(http.MethodGet, path+"?ns="+ns, nil, nil))
			wantCode(t, a, "NAME_UNKNOWN")
		}
	}
	if asked := append(hub.Requests(), other.Requests()...); len(asked) > 0 {
		t.Errorf("upstreams were asked for %v", asked)
	}
}

// wantCode fails the test unless an answer has an error code, and words with it.
func wantCode(t *testing.T, a answer, code string) {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("%v: %v", a, err)
	}
	if len(body.Errors) != 1 || body.Errors[0].Code != code || body.Errors[0].Message == "" {
		t.Errorf("answer %v, want one error %s", a, code)
	}
}

// TestCacheAloneIsReadOnlyMirror serves a cache without a registry behind it.
func TestCacheAloneIsReadOnlyMirror(t *testing.T) {
	up := upstreamtest.Start(t)
	want := fileImage(t)
	publish(t, up, "library/debian", "v1", want)
	caddyfile := strings.Replace(cacheCaddyfile(cached("docker.io", up.URL()), "default docker.io"), "\n\tregistry\n}", "\n\trespond /other \"page\"\n}", 1)
	p := newProcess(t, caddyfile)
	p.start()
	send := p.client()
	for _, path := range []string{"/v2", "/v2/"} {
		a := expect(t, http.StatusOK)(send(http.MethodGet, path, nil, nil))
		if version := a.header.Get("Docker-Distribution-Api-Version"); version != "registry/2.0" {
			t.Errorf("%s says version %q", path, version)
		}
	}
	if a := expect(t, http.StatusOK)(send(http.MethodGet, "/other", nil, nil)); string(a.body) != "page" {
		t.Errorf("another path answers %v", a)
	}
	crane, h := tool(t, "crane"), newHome(t)
	address := "127.0.0.1:" + p.port
	for n, name := range []string{"/library/debian:v1", "/docker.io/library/debian:v1"} {
		dir := h.path(fmt.Sprint("pulled", n))
		h.run(crane, "pull", "--format=oci", address+name, dir)
		want.wantLayout(t, dir)
	}
	fileImage(t).writeLayout(t, h.path("layout"), "v1")
	for _, name := range []string{"/team/app:v1", "/library/debian:v1", "/docker.io/library/debian:v1"} {
		if _, _, err := h.try(crane, "push", h.path("layout"), address+name); err == nil {
			t.Errorf("a mirror took a push of %s", name)
		}
	}
	for _, path := range []string{"/v2/team/app/blobs/uploads/", "/v2/library/debian/blobs/uploads/"} {
		if a, err := send(http.MethodPost, path, nil, nil); err != nil || a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %v %v", path, a, err)
		}
	}
}
