package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestNamesOfOneImageAreOneCopy(t *testing.T) {
	hub, other := upstreamtest.Start(t), upstreamtest.Start(t)
	image := hub.AddImage("library/alpine", "3", upstreamtest.Bytes(1, 10_000))
	s := runCache(t, "default docker.io\n"+cached("ghcr.io", other)+cached("docker.io", hub))
	for i, path := range []string{
		"/v2/docker.io/library/alpine/manifests/3",
		"/v2/docker.io/alpine/manifests/3",
		"/v2/library/alpine/manifests/3?ns=docker.io",
		"/v2/alpine/manifests/3?ns=docker.io",
		"/v2/docker.io/library/alpine/manifests/3?ns=docker.io",
		"/v2/library/alpine/manifests/3",
		"/v2/alpine/manifests/3",
		"/v2/docker.io/library/alpine/manifests/3?ns=" + s.host,
		"/v2/alpine/manifests/3?ns=" + s.host,
	} {
		want := "hit"
		if i == 0 {
			want = "miss"
		}
		if a := s.get(path); a.status != http.StatusOK || a.body != string(image.Manifest.Content) || a.result() != want {
			t.Errorf("%s: %d, %s, %.200s", path, a.status, a.result(), a.body)
		}
	}
	for name, query := range map[string]string{
		"docker.io/library/alpine": "", "docker.io/alpine": "", "library/alpine": "?ns=docker.io", "alpine": "",
	} {
		s.pull(name, query, image)
		s.awaitKept("docker.io/library/alpine", image.Blobs()...)
	}
	if n := len(hub.Requests().Manifests()); n != 1 {
		t.Errorf("%d requests for the manifest:\n%s", n, paths(hub.Requests()))
	}
	if n := len(hub.Requests().Blobs().Method(http.MethodGet)); n != len(image.Blobs()) {
		t.Errorf("%d requests for %d blobs:\n%s", n, len(image.Blobs()), paths(hub.Requests()))
	}
	if n := len(other.Requests()); n != 0 {
		t.Errorf("another upstream was asked:\n%s", paths(other.Requests()))
	}
	if a := s.get("/v2/_catalog"); strings.TrimSpace(a.body) != `{"repositories":["docker.io/library/alpine"]}` {
		t.Errorf("catalog: %s", a.body)
	}
}

func TestEachUpstreamIsAskedForItsOwn(t *testing.T) {
	hub, other := upstreamtest.Start(t), upstreamtest.Start(t)
	hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	image := other.AddImage("team/app", "1", upstreamtest.Bytes(2, 1000))
	s := runCache(t, "default docker.io\n"+cached("docker.io", hub)+cached("localhost:5001", other))
	s.pull("localhost_5001/team/app", "", image)
	s.pull("team/app", "?ns=localhost:5001", image)
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("another upstream was asked:\n%s", paths(hub.Requests()))
	}
}

func TestNamespaceSaysWhoseNameItIs(t *testing.T) {
	hub := upstreamtest.Start(t)
	hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	s := runCache(t, "default docker.io\nlocal_hosts registry.example registry.example:8443\n"+cached("docker.io", hub))
	if a := s.push("team/app", "1"); a.status != http.StatusCreated {
		t.Fatalf("%d %s", a.status, a.body)
	}
	hub.Reset()
	for _, ns := range []string{s.host, "registry.example", "REGISTRY.example:443", "registry.example:8443"} {
		a := s.get("/v2/team/app/manifests/1?ns=" + ns)
		if a.status != http.StatusOK || a.body != emptyIndex || a.header.Get("OCI-Namespace") != ns || a.result() != "" {
			t.Errorf("ns=%s: %d, OCI-Namespace %q, X-Registry-Cache %q, %s", ns, a.status, a.header.Get("OCI-Namespace"), a.result(), a.body)
		}
	}
	for _, ns := range []string{"gcr.io", "registry.example:8444", "127.0.0.1:1", "docker.io:443", "docker.io/team", "%2e%2e"} {
		for _, path := range []string{"/v2/team/app/manifests/1", "/v2/docker.io/team/app/manifests/1", "/v2/team/app/tags/list"} {
			if a := s.get(path + "?ns=" + ns); a.refusal() != "404 NAME_UNKNOWN" {
				t.Errorf("%s?ns=%s: %s", path, ns, a.refusal())
			}
		}
	}
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
	a := s.get("/v2/team/app/manifests/1?ns=docker.io")
	if a.status != http.StatusOK || a.body == emptyIndex || a.header.Get("OCI-Namespace") != "docker.io" {
		t.Errorf("ns=docker.io: %d, OCI-Namespace %q, %s", a.status, a.header.Get("OCI-Namespace"), a.body)
	}
	if a := s.get("/v2/team/app/manifests/1"); a.body != emptyIndex || a.header.Values("OCI-Namespace") != nil {
		t.Errorf("without ns: OCI-Namespace %q, %s", a.header.Values("OCI-Namespace"), a.body)
	}
}

func TestBlobsOfDefaultNamesNeedAManifest(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	s := runCache(t, "default docker.io\n"+cached("docker.io", hub))
	blob := "/v2/team/app/blobs/" + image.Config.Digest.String()
	if a := s.get(blob); a.refusal() != "404 BLOB_UNKNOWN" {
		t.Errorf("before the manifest: %s", a.refusal())
	}
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
	s.get("/v2/team/app/manifests/1")
	if a := s.get(blob); a.status != http.StatusOK {
		t.Errorf("after it: %d %s", a.status, a.body)
	}
}

func TestPushedNamesArePrivateFromThenOn(t *testing.T) {
	hub := upstreamtest.Start(t)
	hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	s := runCache(t, "default docker.io\nprivate blumeops/**\n"+cached("docker.io", hub))
	if a := s.get("/v2/team/app/manifests/1"); a.status != http.StatusOK || a.result() != "miss" {
		t.Fatalf("before a push: %d %s", a.status, a.body)
	}
	if a := s.push("team/other", "1"); a.status != http.StatusCreated {
		t.Fatalf("push: %d %s", a.status, a.body)
	}
	hub.Reset()
	private := func(when string) {
		t.Helper()
		for _, path := range []string{
			"/v2/team/app/manifests/1", "/v2/team/app/tags/list", "/v2/team/more/below/manifests/1", "/v2/team/manifests/1", "/v2/blumeops/app/manifests/1",
		} {
			if a := s.get(path); a.status != http.StatusNotFound {
				t.Errorf("%s: %s: %d %s", when, path, a.status, a.body)
			}
		}
	}
	private("after a push")
	if a := s.ask(http.MethodDelete, "/v2/team/other/manifests/1"); a.status != http.StatusAccepted {
		t.Fatalf("delete: %d %s", a.status, a.body)
	}
	private("after its deletion")
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
	if a := s.get("/v2/docker.io/team/app/manifests/1"); a.status != http.StatusOK {
		t.Errorf("by its full name: %d %s", a.status, a.body)
	}
}
