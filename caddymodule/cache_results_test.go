package caddymodule_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestResultsAreTold(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 1000))
	moved := hub.AddImage("team/app", "", upstreamtest.Bytes(2, 1000))
	s := runCache(t, cached("docker.io", hub, "fresh 1ns", "fresh v* forever"))
	hub.MoveTag("team/app", "v1", image.Manifest.Digest)
	const path = "/v2/docker.io/team/app/"
	step := func(what, path, want string, asked int) answer {
		t.Helper()
		hub.Reset()
		a := s.get(path)
		if a.result() != want || len(hub.Requests()) != asked {
			t.Errorf("%s: %q, want %q; asked, where %d requests were expected:\n%s", what, a.result(), want, asked, paths(hub.Requests()))
		}
		return a
	}
	step("first pull of a tag", path+"manifests/1", "miss", 1)
	step("second", path+"manifests/1", "revalidated", 1)
	step("by digest", path+"manifests/"+image.Manifest.Digest.String(), "hit", 0)
	step("first pull of a tag that is fresh for ever", path+"manifests/v1", "miss", 1)
	step("second", path+"manifests/v1", "hit", 0)
	hub.MoveTag("team/app", "1", moved.Manifest.Digest)
	hub.MoveTag("team/app", "v1", moved.Manifest.Digest)
	if a := step("after it moved", path+"manifests/1", "miss", 2); a.body != string(moved.Manifest.Content) {
		t.Errorf("after it moved: %s", a.body)
	}
	step("one that is fresh for ever", path+"manifests/v1", "hit", 0)
	step("first pull of a blob", path+"blobs/"+image.Config.Digest.String(), "miss", 1)
	step("absent", path+"manifests/none", "", 1)
	step("absent still", path+"manifests/none", "", 0)
	hub.Down()
	step("during an outage", path+"manifests/1", "stale", 0)
	hub.Up()
	if a := s.push("own/app", "1"); a.status != http.StatusCreated || a.header.Values("X-Registry-Cache") != nil {
		t.Errorf("push: %d, %v", a.status, a.header)
	}
	step("one's own", "/v2/own/app/manifests/1", "", 0)
}

func TestMetricsOfTheCache(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("team/app", "1", upstreamtest.Bytes(1, 10_000))
	// What is counted is of the whole process, so this upstream has a name of its own.
	name := fmt.Sprintf("metered-%d.example", time.Now().UnixNano())
	s := runSite(t, "metrics /metrics\nregistry_cache {\n"+cached(name, hub, "fresh 1ns")+"}\nregistry")
	path := "/v2/" + name + "/team/app/"
	metrics := func() string { return strings.ReplaceAll(s.get("/metrics").body, name, "metered") }
	hub.SetRateLimit(100, 77, time.Hour, time.Second)
	s.get(path + "manifests/1")
	s.get(path + "manifests/1")
	s.get(path + "manifests/none")
	s.get(path + "manifests/none")
	blob := path + "blobs/" + image.Layers[0].Digest.String()
	s.get(blob)
	s.awaitKept(name+"/team/app", image.Layers[0])
	if a := s.get(blob); a.result() != "hit" {
		t.Errorf("a blob that was pulled: %s", a.result())
	}
	page := metrics()
	for _, want := range []string{
		`registry_cache_requests_total{result="miss",upstream="metered"} `,
		`registry_cache_requests_total{result="hit",upstream="metered"} 2`,
		`registry_cache_requests_total{result="revalidated",upstream="metered"} 1`,
		`registry_cache_requests_total{result="negative",upstream="metered"} 1`,
		`registry_cache_requests_total{result="stale",upstream="metered"} 0`,
		fmt.Sprintf(`registry_cache_bytes_total{source="upstream",upstream="metered"} %d`, int(image.Manifest.Size+image.Layers[0].Size)),
		fmt.Sprintf(`registry_cache_bytes_total{source="cache",upstream="metered"} %d`, int(image.Layers[0].Size)),
		`registry_upstream_requests_total{code="200",upstream="metered"} `,
		`registry_upstream_requests_total{code="404",upstream="metered"} 1`,
		`registry_upstream_ratelimit_remaining{upstream="metered"} 75`,
		`registry_upstream_up{upstream="metered"} 1`,
		`registry_transfers_active{upstream="metered"} `,
		`registry_upstream_mismatches_total{upstream="metered"} 0`,
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		for line := range strings.Lines(page) {
			if strings.Contains(line, "metered") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}

func TestAccessLogTellsWhatWasAskedFor(t *testing.T) {
	hub := upstreamtest.Start(t)
	image := hub.AddImage("library/alpine", "1", upstreamtest.Bytes(1, 1000))
	file := filepath.Join(t.TempDir(), "access.log")
	s := runSite(t, "log {\noutput file "+file+"\n}\nregistry_cache {\ndefault docker.io\n"+cached("docker.io", hub)+"}\nregistry")
	steps := []struct{ method, path, repository, operation, cache string }{
		{http.MethodGet, "/v2/", "", "ping", ""},
		{http.MethodGet, "/v2/_catalog", "", "catalog", ""},
		{http.MethodGet, "/v2/alpine/manifests/1", "docker.io/library/alpine", "manifest", "miss"},
		{http.MethodHead, "/v2/alpine/manifests/1", "docker.io/library/alpine", "manifest", "hit"},
		{http.MethodGet, "/v2/docker.io/alpine/blobs/" + image.Config.Digest.String(), "docker.io/library/alpine", "blob", "miss"},
		{http.MethodGet, "/v2/library/alpine/tags/list?ns=docker.io", "docker.io/library/alpine", "tags", "miss"},
		{http.MethodGet, "/v2/docker.io/library/alpine/referrers/" + image.Manifest.Digest.String(), "docker.io/library/alpine", "referrers", "miss"},
		{http.MethodGet, "/v2/alpine/manifests/none", "docker.io/library/alpine", "manifest", ""},
		{http.MethodGet, "/v2/alpine/manifests/none", "docker.io/library/alpine", "manifest", "negative"},
		{http.MethodPut, "/v2/team/app/manifests/1", "team/app", "manifest_push", ""},
		{http.MethodGet, "/v2/team/app/manifests/1", "team/app", "manifest", ""},
		{http.MethodPut, "/v2/nginx/manifests/1", "nginx", "manifest_push", ""},
		{http.MethodPost, "/v2/docker.io/alpine/blobs/uploads/", "docker.io/alpine", "upload", ""},
		{http.MethodGet, "/v2/team/app/manifests/1?ns=gcr.io", "team/app", "manifest", ""},
	}
	for _, step := range steps {
		s.ask(step.method, step.path, []byte(emptyIndex)...)
	}
	for i, line := range logged(t, file, len(steps)) {
		var entry struct {
			Message   string `json:"msg"`
			Request   struct{ Method, URI string }
			Repo      string `json:"registry_repo"`
			Operation string `json:"registry_operation"`
			Cache     string `json:"registry_cache"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		want := steps[i]
		if entry.Request.Method != want.method || entry.Request.URI != want.path || entry.Message != "handled request" {
			t.Fatalf("line %d is of something else: %s", i, line)
		}
		if entry.Repo != want.repository || entry.Operation != want.operation || entry.Cache != want.cache {
			t.Errorf("%s %s: %q, %q, %q, want %q, %q, %q", want.method, want.path,
				entry.Repo, entry.Operation, entry.Cache, want.repository, want.operation, want.cache)
		}
	}
}

// logged returns the lines of a log once it has n of them: an answer is logged after it
// was sent.
func logged(t *testing.T, file string, n int) []string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		var lines []string
		if f, err := os.Open(file); err == nil {
			for scanner := bufio.NewScanner(f); scanner.Scan(); {
				lines = append(lines, scanner.Text())
			}
			f.Close()
		}
		if len(lines) >= n {
			return lines
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines, want %d:\n%s", len(lines), n, strings.Join(lines, "\n"))
		}
		time.Sleep(10 * time.Millisecond)
	}
}
