package caddymodule_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestErrorsOfUpstreamsKeepTheirMeaning asks for what is not here. An upstream that hangs
// takes longer to find out than a test may, and is left to package upstream's tests.
func TestErrorsOfUpstreamsKeepTheirMeaning(t *testing.T) {
	absent := digest.FromString("absent").String()
	all := map[string]string{
		"manifests/1": "", "manifests/" + absent: "", "blobs/" + absent: "", "tags/list": "",
	}
	for name, test := range map[string]struct {
		arrange func(*upstreamtest.Registry)
		options string
		paths   map[string]string // with what is wanted there, if it is not the following
		want    string
		message string
	}{
		"absent": {
			paths: map[string]string{
				"manifests/1": "404 MANIFEST_UNKNOWN", "manifests/" + absent: "404 MANIFEST_UNKNOWN",
				"blobs/" + absent: "404 BLOB_UNKNOWN", "tags/list": "404 NAME_UNKNOWN",
			},
		},
		"401, as of Docker Hub": {
			arrange: func(r *upstreamtest.Registry) { r.RequireBearer(upstreamtest.Tokens{}) },
			want:    "403 DENIED", message: "docker.io",
		},
		"401 for want of a password": {
			arrange: func(r *upstreamtest.Registry) { r.RequireBasic("me", "secret") },
			want:    "403 DENIED", message: "docker.io",
		},
		"403": {
			arrange: func(r *upstreamtest.Registry) {
				r.Fault(upstreamtest.Match{}, upstreamtest.Refuse(http.StatusForbidden))
			},
			want: "403 DENIED", message: "docker.io",
		},
		"429": {
			arrange: func(r *upstreamtest.Registry) { r.Fault(upstreamtest.Match{}, upstreamtest.TooManyRequests("17")) },
			want:    "429 TOOMANYREQUESTS", message: "docker.io",
		},
		"500": {
			arrange: func(r *upstreamtest.Registry) {
				r.Fault(upstreamtest.Match{}, upstreamtest.Refuse(http.StatusInternalServerError))
			},
			want: "502 UNAVAILABLE", message: "docker.io",
		},
		"a page for people": {
			arrange: func(r *upstreamtest.Registry) {
				r.Fault(upstreamtest.Match{}, upstreamtest.Answer(http.StatusOK, "text/html", []byte("<title>Log in to the hotel</title>")))
			},
			paths: map[string]string{"manifests/1": "", "manifests/" + absent: "", "tags/list": ""},
			want:  "502 UNAVAILABLE", message: "docker.io",
		},
		"refused connections": {
			arrange: (*upstreamtest.Registry).Down,
			want:    "502 UNAVAILABLE", message: "docker.io",
		},
		"not allowed": {
			options: "allow library/**",
			want:    "403 DENIED", message: "only allow library/**",
		},
		"denied": {
			options: "deny other/* team/*\nallow **",
			want:    "403 DENIED", message: "deny team/*",
		},
	} {
		t.Run(name, func(t *testing.T) {
			hub := upstreamtest.Start(t)
			if test.arrange != nil {
				test.arrange(hub)
			}
			s := runCache(t, cached("docker.io", hub, test.options))
			wanted := test.paths
			if wanted == nil {
				wanted = all
			}
			for path, want := range wanted {
				if want == "" {
					want = test.want
				}
				path = "/v2/docker.io/team/app/" + path
				a := s.get(path)
				if a.refusal() != want || !strings.Contains(a.body, test.message) || a.result() != "" {
					t.Errorf("GET %s: X-Registry-Cache %q, %d %s, want %s with %q", path, a.result(), a.status, a.body, want, test.message)
				}
				if head := s.ask(http.MethodHead, path); head.status != a.status || head.body != "" {
					t.Errorf("HEAD %s: %d, GET %d", path, head.status, a.status)
				}
				retryAfter, err := strconv.Atoi(a.header.Get("Retry-After"))
				if a.status == http.StatusTooManyRequests && (err != nil || retryAfter < 1 || retryAfter > 17) {
					t.Errorf("GET %s: Retry-After %q", path, a.header.Get("Retry-After"))
				}
			}
			if test.options != "" && len(hub.Requests()) > 0 {
				t.Errorf("the upstream was asked:\n%s", paths(hub.Requests()))
			}
		})
	}
}

func TestWhatIsDeniedIsNotServedFromTheCopyEither(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	s, dir := newSite(t), t.TempDir()
	run(t, global(dir, "")+s.caddyfile("registry_cache {\n"+cached("docker.io", hub)+"}"))
	s.get("/v2/docker.io/team/app/manifests/1")
	s.pull("docker.io/team/app", "", image)
	s.get("/v2/docker.io/team/app/tags/list")
	run(t, global(dir, "")+s.caddyfile("registry_cache {\n"+cached("docker.io", hub, "deny team/**")+"}"))
	for _, path := range []string{
		"manifests/1", "manifests/" + image.Manifest.Digest.String(), "blobs/" + image.Config.Digest.String(), "tags/list",
		"referrers/" + image.Manifest.Digest.String(),
	} {
		if a := s.get("/v2/docker.io/team/app/" + path); a.refusal() != "403 DENIED" || !strings.Contains(a.body, "deny team/**") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestAnOutageIsNotNoticedByWhoHasACopy(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 10_000))
	for name, fail := range map[string]func(){
		"down":       hub.Down,
		"black hole": hub.BlackHole,
		"500":        func() { hub.Fault(upstreamtest.Match{}, upstreamtest.Refuse(http.StatusInternalServerError)) },
		"429":        func() { hub.Fault(upstreamtest.Match{}, upstreamtest.TooManyRequests("3600")) },
		"401":        func() { hub.RequireBasic("me", "secret") },
	} {
		t.Run(name, func(t *testing.T) {
			s := runCache(t, cached("docker.io", hub, "fresh 1ns"))
			s.get("/v2/docker.io/team/app/manifests/1")
			s.pull("docker.io/team/app", "", image)
			s.awaitKept("docker.io/team/app", image.Blobs()...)
			s.get("/v2/docker.io/team/app/tags/list")
			fail()
			defer func() {
				hub.AllowAll()
				hub.Heal()
				hub.Up()
			}()
			began := time.Now()
			if a := s.get("/v2/docker.io/team/app/manifests/1"); a.status != http.StatusOK || a.result() != "stale" {
				t.Errorf("tag: %d, %s, %s", a.status, a.result(), a.body)
			}
			s.pull("docker.io/team/app", "", image)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			if name == "black hole" {
				return // a list is waited for
			}
			if a := s.get("/v2/docker.io/team/app/tags/list"); a.status != http.StatusOK || a.result() != "stale" {
				t.Errorf("list: %d, %s, %s", a.status, a.result(), a.body)
			}
		})
	}
}

// TestAnUnreachableUpstreamDoesNotKeepTheServerFromStarting asks nothing of it either,
// and neither does a validation.
func TestAnUnreachableUpstreamDoesNotKeepTheServerFromStarting(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	s := runCache(t, "upstream docker.io {\nurl "+gone.URL+"\n}")
	if a := s.get("/v2/"); a.status != http.StatusOK {
		t.Errorf("/v2/: %d %s", a.status, a.body)
	}
	if a := s.push("team/app", "1"); a.status != http.StatusCreated {
		t.Errorf("push: %d %s", a.status, a.body)
	}
	if a := s.get("/v2/docker.io/team/app/manifests/1"); a.refusal() != "502 UNAVAILABLE" {
		t.Errorf("pull: %s", a.refusal())
	}
}
