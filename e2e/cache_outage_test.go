//go:build e2e

package e2e

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

const (
	// soon is within what people who wait for a client call at once, on a busy machine
	// too; it is much less than the time-outs of connections.
	soon = 5 * time.Second
	// atOnce is what an answer takes that waits for nobody.
	atOnce = 10 * time.Millisecond
)

// TestCacheHidesOutage: an upstream that was there once may fail in any way, and its tags
// are pulled as before, as quickly, though it would be time to ask for them again.
func TestCacheHidesOutage(t *testing.T) {
	for outage, begin := range map[string]func(*upstreamtest.Registry){
		"down":       (*upstreamtest.Registry).Down,
		"black hole": (*upstreamtest.Registry).BlackHole,
		"500":        func(up *upstreamtest.Registry) { up.Fault(upstreamtest.Match{}, upstreamtest.Refuse(500)) },
		"429":        func(up *upstreamtest.Registry) { up.Fault(upstreamtest.Match{}, upstreamtest.TooManyRequests("60")) },
	} {
		t.Run(outage, func(t *testing.T) {
			up := upstreamtest.Start(t)
			p := startCache(t, cached("docker.io", up.URL(), "fresh 1ms"), "default docker.io")
			send := p.client()
			image := up.AddImage("library/alpine", "latest", upstreamtest.Bytes(1, 2<<20))
			mustPull(t, send, "library/alpine", "latest", image)
			begin(up)

			var answers []time.Duration
			for n := range 12 {
				began := time.Now()
				results := mustPull(t, send, "library/alpine", "latest", image)
				if results[0] != "stale" {
					t.Fatalf("request %d: the tag is %s, want stale", n+1, results[0])
				}
				if took := time.Since(began); took > soon {
					t.Errorf("request %d took %v", n+1, took)
				}
				if n < 2 {
					continue
				}
				began = time.Now()
				expect(t, http.StatusOK)(send(http.MethodHead, "/v2/library/alpine/manifests/latest", nil, nil))
				answers = append(answers, time.Since(began))
			}
			slices.Sort(answers)
			if median := answers[len(answers)/2]; median > atOnce {
				t.Errorf("from the third request on an answer takes %v", median)
			}
			if stale := p.metric(`registry_cache_requests_total{result="stale",upstream="docker.io"}`); stale < 20 {
				t.Errorf("%v stale answers were counted", stale)
			}
		})
	}
}

// TestClientsPullDuringOutage: clients pull again by the tag, and wait for no time-out,
// from a server that was started while no upstream could be reached too.
func TestClientsPullDuringOutage(t *testing.T) {
	up := upstreamtest.Start(t)
	want := fileImage(t)
	publish(t, up, "library/debian", "v1", want)
	p := startCache(t, cached("docker.io", up.URL(), "fresh 1ms"), cached("ghcr.io", "http://"+freeAddr(t)), "default docker.io")
	crane, h := tool(t, "crane"), newHome(t)
	c := startContainerd1(t)
	pull := func(when string) {
		t.Helper()
		c.write("certs.d/docker.io/hosts.toml", "server = \"https://docker.io\"\n[host.\"http://127.0.0.1:"+p.port+"\"]\ncapabilities = [\"pull\", \"resolve\"]\n")
		began := time.Now()
		c.pulls(map[string]*image{"docker.io/library/debian:v1": want}, "--hosts-dir", c.path("certs.d"))
		dir := h.path(strings.ReplaceAll(when, " ", "-"))
		h.run(crane, "pull", "--format=oci", "127.0.0.1:"+p.port+"/docker.io/library/debian:v1", dir)
		want.wantLayout(t, dir)
		if took := time.Since(began); took > 2*soon {
			t.Errorf("%s: pulling took %v", when, took)
		}
	}
	pull("at first")
	up.Down()
	pull("in an outage")
	p.stop()
	began := time.Now()
	p.start()
	if took := time.Since(began); took > soon {
		t.Errorf("starting in an outage took %v", took)
	}
	pull("after a start in an outage")

	// What is not here cannot be had, and the answer says why.
	a := expect(t, http.StatusBadGateway)(p.client()(http.MethodGet, "/v2/ghcr.io/o/x/manifests/v1", nil, nil))
	if !strings.Contains(a.String(), "ghcr.io") {
		t.Errorf("the refusal does not name the upstream: %v", a)
	}
	up.Up()
	news := up.AddImage("library/debian", "v2", upstreamtest.Bytes(2, 1000))
	send := p.client()
	p.eventually("the upstream is asked again", func() bool {
		a, err := send(http.MethodGet, "/v2/library/debian/manifests/v2", nil, nil)
		return err == nil && a.status == http.StatusOK && digest.FromBytes(a.body) == news.Manifest.Digest
	})
}

// TestCacheOfCache has a registry that caches another one: what that has of its own, and
// what it caches itself.
func TestCacheOfCache(t *testing.T) {
	origin := upstreamtest.Start(t)
	want := fileImage(t)
	publish(t, origin, "library/debian", "v1", want)
	near := startRegistry(t, cacheOf(cached("docker.io", origin.URL()), "default docker.io"))
	far := startRegistry(t, cacheOf(cached("docker.io", "http://"+near.addr), cached("near.example.com", "http://"+near.addr), "default docker.io"))

	crane, h := tool(t, "crane"), newHome(t)
	own := newPlatforms(t)
	own.writeLayout(t, h.path("own"), "v1")
	h.run(crane, "push", h.path("own"), near.name("team/app:v1"))

	for pulled, want := range map[string]*image{
		"docker.io/library/debian:v1":                  want,
		"library/debian:v1":                            want,
		"near.example.com/docker.io/library/debian:v1": want,
		"near.example.com/team/app:v1":                 own,
	} {
		dir := h.path(filepath.Base(strings.ReplaceAll(pulled, "/", "-")))
		h.run(crane, "pull", "--format=oci", far.name(pulled), dir)
		want.wantLayout(t, dir)
	}
	if sent, size := origin.Requests().Blobs().Sent(), want.size(t); sent != size {
		t.Errorf("%d bytes of blobs were asked of the origin, want %d", sent, size)
	}
	origin.Down()
	h.run(crane, "pull", "--format=oci", far.name("docker.io/library/debian:v1"), h.path("again"))
	want.wantLayout(t, h.path("again"))
}
