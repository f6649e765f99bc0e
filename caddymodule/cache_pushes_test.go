package caddymodule_test

import (
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// pushRequests are what a push of a repository consists of.
func pushRequests(name, query string) map[string]string {
	return map[string]string{
		"/v2/" + name + "/manifests/1" + query:                                         http.MethodPut,
		"/v2/" + name + "/manifests/" + digest.FromString(emptyIndex).String() + query: http.MethodPut,
		"/v2/" + name + "/blobs/uploads/" + query:                                      http.MethodPost,
	}
}

func TestNamesOfOtherRegistriesTakeNoPush(t *testing.T) {
	hub := upstreamtest.Start(t)
	hub.AddImage("library/alpine", "1", upstreamtest.Bytes(1, 1000))
	cache, plain := newSite(t), newSite(t)
	run(t, global(t.TempDir(), "")+
		cache.caddyfile("registry_cache {\ndefault docker.io\n"+cached("docker.io", hub)+cached("localhost:5001", hub)+"}\nregistry")+
		plain.caddyfile("registry"))
	cache.get("/v2/alpine/manifests/1")
	hub.Reset()
	for where, s := range map[string]site{"the site with the cache": cache, "another site": plain} {
		for _, name := range []string{
			"docker.io/library/alpine", "docker.io/new/app", "quay.io/new/app", "localhost_5001/app", "alpine", "nginx", "library/new", "library/new/below",
		} {
			for path, method := range pushRequests(name, "") {
				if a := s.ask(method, path, []byte(emptyIndex)...); a.refusal() != "405 UNSUPPORTED" {
					t.Errorf("%s: %s %s: %s", where, method, path, a.refusal())
				}
			}
		}
		if a := s.push("team/app", "1"); a.status != http.StatusCreated {
			t.Errorf("%s: an own name: %d %s", where, a.status, a.body)
		}
		if a := s.ask(http.MethodPut, "/v2/team/app/manifests/1?ns="+s.host, []byte(emptyIndex)...); a.status != http.StatusCreated {
			t.Errorf("%s: with its own host as ns: %d %s", where, a.status, a.body)
		}
	}
	for path, method := range pushRequests("team/app", "?ns=docker.io") {
		if a := cache.ask(method, path, []byte(emptyIndex)...); a.refusal() != "405 UNSUPPORTED" {
			t.Errorf("with ns: %s %s: %s", method, path, a.refusal())
		}
	}
	if a := plain.ask(http.MethodPut, "/v2/team/app/manifests/1?ns=docker.io", []byte(emptyIndex)...); a.refusal() != "404 NAME_UNKNOWN" {
		t.Errorf("with ns on another site: %s", a.refusal())
	}
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
	if a := cache.get("/v2/alpine/manifests/1"); a.result() != "hit" || a.body == emptyIndex {
		t.Errorf("the copy: %s, %s", a.result(), a.body)
	}
}

func TestCopiesCanBeDeleted(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("library/alpine", "1", upstreamtest.Bytes(1, 1000))
	s := runCache(t, "default docker.io\n"+cached("docker.io", hub))
	s.get("/v2/alpine/manifests/1")
	// That would be to delete what only might be the copy.
	if a := s.ask(http.MethodDelete, "/v2/library/alpine/manifests/1"); a.status != http.StatusNotFound {
		t.Errorf("by the default name: %d %s", a.status, a.body)
	}
	if a := s.ask(http.MethodDelete, "/v2/docker.io/library/alpine/manifests/"+image.Manifest.Digest.String()); a.status != http.StatusAccepted {
		t.Errorf("by the full name: %d %s", a.status, a.body)
	}
	if a := s.get("/v2/alpine/manifests/1"); a.status != http.StatusOK || a.result() != "miss" {
		t.Errorf("pulled again: %d %s", a.status, a.result())
	}
	if n := len(hub.Requests().Method(http.MethodDelete)); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
}

func TestACacheAloneIsAMirror(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	s := runSite(t, "registry_cache {\ndefault docker.io\nprivate blumeops/**\n"+cached("docker.io", hub)+"}\nrespond /other \"other\"")
	if a := s.get("/v2/"); a.status != http.StatusOK || a.body != "{}" {
		t.Errorf("/v2/: %d %s", a.status, a.body)
	}
	s.get("/v2/team/app/manifests/1")
	s.pull("team/app", "", image)
	if a := s.get("/other"); a.body != "other" {
		t.Errorf("another path: %d %s", a.status, a.body)
	}
	hub.Reset()
	for path, want := range map[string]string{
		"/v2/blumeops/app/manifests/1":               "404 NAME_UNKNOWN",
		"/v2/blumeops/app/tags/list":                 "404 NAME_UNKNOWN",
		"/v2/registry.example/app/manifests/1":       "404 NAME_UNKNOWN",
		"/v2/team/app/manifests/1?ns=registry.local": "404 NAME_UNKNOWN",
	} {
		if a := s.get(path); a.refusal() != want {
			t.Errorf("%s: %s, want %s", path, a.refusal(), want)
		}
	}
	for name, want := range map[string]string{
		"docker.io/team/app": "405 UNSUPPORTED", "nginx": "405 UNSUPPORTED", "library/nginx": "405 UNSUPPORTED",
		"team/app": "404 NAME_UNKNOWN", "blumeops/app": "404 NAME_UNKNOWN",
	} {
		for path, method := range pushRequests(name, "") {
			if a := s.ask(method, path, []byte(emptyIndex)...); a.refusal() != want {
				t.Errorf("%s %s: %s, want %s", method, path, a.refusal(), want)
			}
		}
	}
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
}

// TestACacheLeavesTheRestToWhatFollows has another registry behind it, as a proxy would.
func TestACacheLeavesTheRestToWhatFollows(t *testing.T) {
	hub := upstreamtest.Start(t)
	behind := upstreamtest.Start(t)
	image := behind.AddImage("blumeops/app", "1", upstreamtest.Bytes(1, 1000))
	behind.Fault(upstreamtest.Match{}, upstreamtest.Chunked()) // what is written after it would be read
	s := runSite(t, "registry_cache {\n"+cached("docker.io", hub)+"}\nreverse_proxy "+behind.URL())
	s.pull("blumeops/app", "", image)
	if n := len(hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
	}
}
