package caddymodule_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestPrivateNamesAreNeverSentUpstream asks in every way for private names, between
// requests for others, which the upstream is asked for. Every private name has "secret"
// in it, and no request upstream may.
func TestPrivateNamesAreNeverSentUpstream(t *testing.T) {
	const clients, requests = 8, 500
	hub := upstreamtest.Start(t)
	public := hub.AddImage("library/alpine", "1", upstreamtest.Bytes(1, 1000))
	hub.AddImage("blumeops/secret", "1", upstreamtest.Bytes(2, 1000)) // somebody took the name there
	hub.AddImage("secretorg/app", "1", upstreamtest.Bytes(3, 1000))
	s := runCache(t, "default docker.io\nprivate blumeops/** *-secret/*\nlocal_hosts registry.example\n"+cached("docker.io", hub, "not_found_ttl 1ms"))
	// secretorg is private because something of it was pushed, and secretgone because
	// something was.
	for _, name := range []string{"secretorg/pushed", "secretgone/pushed", "blumeops/secret-pushed"} {
		if a := s.push(name, "1"); a.status != http.StatusCreated {
			t.Fatalf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := s.ask(http.MethodDelete, "/v2/secretgone/pushed/manifests/1"); a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}

	private := []string{
		"blumeops/secret", "blumeops/secret-pushed", "blumeops/secret/below/it", "blumeops/a/secret", "team-secret/app",
		"secretorg", "secretorg/app", "secretorg/pushed", "secretorg/pushed/below", "secretorg/blobs", "secretgone/app", "secretgone/manifests/uploads",
		"secret.example/app", "secret.example/docker.io/app", "localhost.secret/library/alpine", "secrethost:5000/app",
		"Secretorg/app", "secretorg%2Fapp", "secretorg/%61pp", "secretorg//app", "./secretorg/app", "library/../secretorg/app", "docker.io%2Fsecretorg/app",
		"SECRETORG/app", "secretorg/app/", "secretorg /app", "blumeops\\secret/app",
	}
	others := []string{"alpine", "library/alpine", "docker.io/alpine", "team/app", "docker.io/team/app"}
	references := []string{
		"manifests/1", "manifests/latest", "manifests/" + public.Manifest.Digest.String(), "manifests/" + digest.FromString("absent").String(),
		"manifests/sha256-" + strings.Repeat("a", 64), "blobs/" + public.Config.Digest.String(), "blobs/" + digest.FromString("absent").String(), "blobs/uploads/",
		"blobs/uploads/4f4ff1f6-5a2f-4a8c-9d7a-1f6f1b7f5a11", "tags/list", "tags/list?n=1&last=a", "referrers/" + public.Manifest.Digest.String(), "nonsense",
	}
	queries := []string{"", "", "", "?ns=" + s.host, "?ns=registry.example", "?ns=secret.example", "?ns=", "?ns=docker.example", "?ns=docker.io.", "?artifactType=secret",
		"?mount=" + public.Config.Digest.String() + "&from=secretorg/pushed", "?n=1&last=secret"}
	methods := []string{
		http.MethodGet, http.MethodGet, http.MethodGet, http.MethodHead, http.MethodHead,
		http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
	}

	seed := rand.Uint64()
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := make(map[int]int)
	for client := range clients {
		random := rand.New(rand.NewPCG(seed, uint64(client)))
		pick := func(from []string) string { return from[random.IntN(len(from))] }
		wg.Go(func() {
			for range requests {
				name, query := pick(private), pick(queries)
				method := pick(methods)
				if random.IntN(4) == 0 {
					// A push would make these private, and what is asked of them may have
					// no "secret", which the upstream would be asked for.
					name, query, method = pick(others), "", http.MethodGet
				}
				reference := pick(references)
				if strings.Contains(reference, "?") {
					query = ""
				}
				path := "/v2/" + name + "/" + reference + query
				a, err := s.do(context.Background(), method, strings.ReplaceAll(path, " ", "%20"), []byte(emptyIndex))
				if err != nil {
					t.Errorf("%s %s: %v", method, path, err)
					return
				}
				mu.Lock()
				statuses[a.status]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	asked := hub.Requests()
	for _, r := range asked.Mentioning("secret") {
		t.Errorf("sent upstream: %s", r)
	}
	for _, r := range append(asked.Mentioning("SECRET"), asked.Mentioning("blumeops")...) {
		t.Errorf("sent upstream: %s", r)
	}
	if statuses[http.StatusOK] == 0 || statuses[http.StatusNotFound] == 0 || len(asked.Mentioning("team/app")) == 0 {
		t.Errorf("too little of what was asked for was answered: %v, %s", statuses, paths(asked))
	}
	t.Logf("seed %d: %s; %d requests upstream", seed, fmt.Sprint(statuses), len(asked))
}
