package caddymodule_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// site is a site of the test's server, as its clients see it.
type site struct {
	t    *testing.T
	host string // as in the names of images
}

func (s site) url() string { return "http://" + s.host }

// answer is what a client gets.
type answer struct {
	status int
	header http.Header
	body   string
}

// refusal returns the status and the first error of an answer: "404 NAME_UNKNOWN".
func (a answer) refusal() string {
	var body struct {
		Errors []struct{ Code string }
	}
	if json.Unmarshal([]byte(a.body), &body) != nil || len(body.Errors) == 0 {
		return fmt.Sprintf("%d without a code: %s", a.status, a.body)
	}
	return fmt.Sprintf("%d %s", a.status, body.Errors[0].Code)
}

func (a answer) result() string { return a.header.Get("X-Registry-Cache") }

// do sends a request. It may be called by goroutines, and fails nothing.
func (s site) do(ctx context.Context, method, path string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.url()+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if method == http.MethodPut {
		req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	}
	resp, err := send(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(content)}, err
}

func (s site) ask(method, path string, body ...byte) answer {
	s.t.Helper()
	a, err := s.do(s.t.Context(), method, path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s site) get(path string) answer {
	s.t.Helper()
	return s.ask(http.MethodGet, path)
}

// emptyIndex is a manifest that names nothing.
const emptyIndex = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// push pushes a manifest of its own, that names nothing.
func (s site) push(name, tag string) answer {
	s.t.Helper()
	return s.ask(http.MethodPut, "/v2/"+name+"/manifests/"+tag, []byte(emptyIndex)...)
}

// pull gets all of an image, and checks it.
func (s site) pull(name, query string, image upstreamtest.Image) {
	s.t.Helper()
	contents := map[string]upstreamtest.Blob{"manifests": image.Manifest}
	for _, blob := range image.Blobs() {
		contents["blobs/"+blob.Digest.String()] = blob
	}
	for path, want := range contents {
		if path == "manifests" {
			path += "/" + want.Digest.String()
		}
		a := s.get("/v2/" + name + "/" + path + query)
		if a.status != http.StatusOK || digest.FromString(a.body) != want.Digest {
			s.t.Errorf("%s/%s%s: %d %.200s", name, path, query, a.status, a.body)
		}
	}
}

// awaitKept returns when the blobs of an image that was pulled are kept: clients need not
// wait for that.
func (s site) awaitKept(name string, blobs ...upstreamtest.Blob) {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for _, blob := range blobs {
		for s.ask(http.MethodHead, "/v2/"+name+"/blobs/"+blob.Digest.String()).result() != "hit" {
			if time.Now().After(deadline) {
				s.t.Fatalf("%s of %s is not kept", blob.Digest, name)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// runCache runs a server with a cache and a registry on one site.
func runCache(t *testing.T, options string) site {
	t.Helper()
	return runSite(t, "registry_cache {\n"+options+"\n}\nregistry\n")
}

// runSite runs a server with one site.
func runSite(t *testing.T, directives string) site {
	t.Helper()
	s := newSite(t)
	run(t, global(t.TempDir(), "")+s.caddyfile(directives))
	return s
}

func newSite(t *testing.T) site {
	t.Helper()
	return site{t, fmt.Sprintf("127.0.0.1:%d", freePort(t))}
}

func (s site) caddyfile(directives string) string {
	return fmt.Sprintf("http://%s {\n%s\n}\n", s.host, directives)
}

// cached returns the option of an upstream that is played by one of the test.
func cached(name string, by *upstreamtest.Registry, options ...string) string {
	return fmt.Sprintf("upstream %s {\nurl %s\n%s\n}\n", name, by.URL(), strings.Join(options, "\n"))
}

// paths returns what an upstream was asked for, each once, in order.
func paths(requests upstreamtest.Requests) string {
	var all []string
	seen := make(map[string]bool)
	for _, r := range requests {
		if line := r.Method + " " + r.Path; !seen[line] {
			seen[line] = true
			all = append(all, line)
		}
	}
	return strings.Join(all, "\n")
}
