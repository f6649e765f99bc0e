package caddymodule_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestTransfersOutliveReload has a client that leaves, one that stays, and one that comes
// after the configuration was replaced, twice. The blob is fetched once.
func TestTransfersOutliveReload(t *testing.T) {
	hub := upstreamtest.Start(t)
	layer := upstreamtest.Bytes(1, 1<<20)
	image := hub.AddImage("team/app", "1", layer)
	s, dir := newSite(t), t.TempDir()
	reload := func(option string) {
		t.Helper()
		run(t, global(dir, "")+s.caddyfile("registry_cache {\n"+cached("docker.io", hub, option)+"}\nregistry"))
	}
	reload("fresh 1m")
	release := make(chan struct{})
	hub.Fault(upstreamtest.Match{Path: "/blobs/", Method: http.MethodGet}, upstreamtest.Stall(1<<18, release))
	path := "/v2/docker.io/team/app/blobs/" + image.Layers[0].Digest.String()
	begin := func(ctx context.Context) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := send(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d", resp.StatusCode)
		}
		if _, err := io.CopyN(io.Discard, resp.Body, 1000); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	ctx, leave := context.WithCancel(t.Context())
	begin(ctx)
	leave()
	stayed := begin(t.Context())
	reload("fresh 2m")
	came := begin(t.Context())
	close(release)
	for who, resp := range map[string]*http.Response{"who stayed": stayed, "who came": came} {
		rest, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(rest, layer[1000:]) {
			t.Errorf("%s got %d bytes, %v", who, len(rest), err)
		}
	}
	s.awaitKept("docker.io/team/app", image.Layers[0])
	reload("fresh 3m")
	if a := s.get(path); a.body != string(layer) {
		t.Errorf("after it: %d, %d bytes", a.status, len(a.body))
	}
	if n := len(hub.Requests().Blobs().Method(http.MethodGet)); n != 1 {
		t.Errorf("%d requests, want one:\n%s", n, paths(hub.Requests()))
	}
}

// TestReloadChangesTheRules while copies stay.
func TestReloadChangesTheRules(t *testing.T) {
	hub := upstreamtest.Start(t)
	hub.AddImage("library/alpine", "1", upstreamtest.Bytes(1, 1000))
	s, dir := newSite(t), t.TempDir()
	reload := func(options string) {
		t.Helper()
		run(t, global(dir, "")+s.caddyfile("registry_cache {\n"+options+cached("docker.io", hub)+"}\nregistry"))
	}
	reload("default docker.io\n")
	if a := s.get("/v2/alpine/manifests/1"); a.result() != "miss" {
		t.Errorf("%d %s", a.status, a.body)
	}
	reload("default docker.io\nprivate alpine\n")
	if a := s.get("/v2/alpine/manifests/1"); a.status != http.StatusNotFound {
		t.Errorf("private: %d %s", a.status, a.body)
	}
	reload("")
	if a := s.get("/v2/alpine/manifests/1"); a.status != http.StatusNotFound {
		t.Errorf("without default: %d %s", a.status, a.body)
	}
	if a := s.get("/v2/docker.io/alpine/manifests/1"); a.result() != "hit" {
		t.Errorf("the copy: %s, %d %s", a.result(), a.status, a.body)
	}
	// Without a cache copies are repositories as any other.
	run(t, global(dir, "")+s.caddyfile("registry"))
	if a := s.get("/v2/docker.io/library/alpine/manifests/1"); a.status != http.StatusOK || a.result() != "" {
		t.Errorf("without a cache: %d %s", a.status, a.body)
	}
	if a := s.push("docker.io/library/alpine", "1"); a.refusal() != "405 UNSUPPORTED" {
		t.Errorf("push without a cache: %s", a.refusal())
	}
}

func TestCacheGoesBeforeTheRegistryInAnyOrder(t *testing.T) {
	hub := upstreamtest.Start(t)
	for _, directives := range []string{
		"registry\nregistry_cache {\n" + cached("docker.io", hub) + "}\nrespond below",
		"respond below\nregistry_cache {\n" + cached("docker.io", hub) + "}\nregistry",
	} {
		config := string(adapt(t, "http://127.0.0.1:1 {\n"+directives+"\n}"))
		cache, registry, below := strings.Index(config, `"registry_cache"`), strings.Index(config, `"registry"`), strings.Index(config, `"static_response"`)
		if cache < 0 || registry < cache || below < registry {
			t.Errorf("%s: %s", directives, config)
		}
	}
}

func TestWrongCacheOptionsDoNotStart(t *testing.T) {
	_, err := tryAdapt("http://127.0.0.1:1 {\n\tregistry_cache {\n\t\tupstream docker.io {\n\t\t\tfresh soon\n\t\t}\n\t}\n}")
	if err == nil || !strings.Contains(err.Error(), "Caddyfile:4") {
		t.Errorf("error %v", err)
	}
	t.Setenv("TEST_EMPTY", "")
	file := filepath.Join(t.TempDir(), "no.pem")
	for option, wants := range map[string][]string{
		"credentials me {env.NO_SUCH_VARIABLE}\nallow **": {"docker.io", "credentials", "env.NO_SUCH_VARIABLE"},
		"credentials me {env.TEST_EMPTY}\nallow **":       {"docker.io", "credentials", "env.TEST_EMPTY"},
		"credentials me {file./no/such/secret}\nallow **": {"docker.io", "credentials", "file./no/such/secret"},
		"docker_config /no/such/config.json\nallow **":    {"docker.io", "docker_config", "/no/such/config.json"},
		"ca_file " + file:                                        {"docker.io", "ca_file", file},
		"url {env.NO_SUCH_VARIABLE}":                             {"docker.io", "url", "env.NO_SUCH_VARIABLE"},
		"stale_if_error {env.NO_SUCH_VARIABLE}":                  {"docker.io", "stale_if_error", "env.NO_SUCH_VARIABLE"},
		"fresh v* {env.NO_SUCH_VARIABLE}":                        {"docker.io", "fresh", "env.NO_SUCH_VARIABLE"},
		"}\nmin_free {env.NO_SUCH_VARIABLE}\nupstream quay.io {": {"min_free", "env.NO_SUCH_VARIABLE"},
	} {
		dir := filepath.Join(t.TempDir(), "storage")
		var config caddy.Config
		if err := json.Unmarshal(adapt(t, global(dir, "")+"http://127.0.0.1:1 {\nregistry_cache {\nupstream docker.io {\n"+option+"\n}\n}\n}"), &config); err != nil {
			t.Fatal(err)
		}
		err := caddy.Validate(&config)
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error %v, want %q in it", option, err, want)
			}
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%q: %s was made: %v", option, dir, err)
		}
	}
}

func TestValidationAsksNoUpstream(t *testing.T) {
	hub := upstreamtest.Start(t)
	dir := filepath.Join(t.TempDir(), "storage")
	var config caddy.Config
	if err := json.Unmarshal(adapt(t, global(dir, "")+"http://127.0.0.1:1 {\nregistry_cache {\ndefault docker.io\n"+cached("docker.io", hub)+"}\n}"), &config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&config); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) || len(hub.Requests()) != 0 {
		t.Errorf("%s: %v; the upstream was asked for %s", dir, err, paths(hub.Requests()))
	}
}

// TestLibraryThatWasPushedBeforeIsWarnedOf pushes to a registry that then becomes a mirror.
func TestLibraryThatWasPushedBeforeIsWarnedOf(t *testing.T) {
	hub := upstreamtest.Start(t)
	const warning = "library/… was pushed here"
	for name, test := range map[string]struct {
		push, options string
		warned        bool
	}{
		"pushed":            {"library/alpine", "default docker.io", true},
		"another name":      {"libraryof/alpine", "default docker.io", false},
		"without a default": {"library/alpine", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newSite(t), t.TempDir()
			log := filepath.Join(t.TempDir(), "log")
			options := strings.Replace(global(dir, ""), "output discard", "output file "+log, 1)
			run(t, options+s.caddyfile("registry"))
			if a := s.push(test.push, "1"); a.status != http.StatusCreated {
				t.Fatalf("push: %d %s", a.status, a.body)
			}
			run(t, options+s.caddyfile("registry_cache {\n"+test.options+"\n"+cached("docker.io", hub)+"}\nregistry"))
			content, err := os.ReadFile(log)
			if err != nil || strings.Contains(string(content), warning) != test.warned {
				t.Errorf("warned: %v, want %v, %v\n%s", !test.warned, test.warned, err, content)
			}
		})
	}
}
