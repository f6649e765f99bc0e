package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// wantTags checks a list of tags, which a query may page.
func (s *still) wantTags(query string, result Result, want ...string) {
	s.t.Helper()
	r, _ := s.get(hub + "/" + first + "/tags/list" + query)
	r.wantStatus(s.t, http.StatusOK, result)
	var list struct{ Tags []string }
	if err := json.Unmarshal(r.body, &list); err != nil || !slices.Equal(list.Tags, want) {
		s.t.Errorf("tags%s are %v, %v, want %v", query, list.Tags, err, want)
	}
}

func TestTagsAreTheUpstreams(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.upstream.SetPageSize(2)
		for _, tag := range []string{"a", "b", "c", "d"} {
			s.upstream.MoveTag(first, tag, image.Manifest.Digest)
		}
		s.wantTags("", Miss, "a", "b", "c", "d", "latest")
		s.wantAsked("GET", "GET", "GET")
		s.wantTags("?n=2&last=a", Hit, "b", "c")
		s.wantTags("?n=0", Hit)
		s.wantTags("?last=zz", Hit)
		s.wantTags("?last=bb&n=1000000", Hit, "c", "d", "latest")
		s.upstream.DeleteTag(first, "a")
		s.wantTags("", Hit, "a", "b", "c", "d", "latest")
		age()
		s.wantTags("", Miss, "b", "c", "d", "latest")

		// A list that was given stands in for an upstream that fails, and is not waited for.
		age()
		s.silent.Store(true)
		began := time.Now()
		s.wantTags("", Stale, "b", "c", "d", "latest")
		if took := time.Since(began); took != patience {
			t.Errorf("waited for %v", took)
		}
		time.Sleep(time.Hour)
	})
}

func TestTagsWithoutTheUpstream(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.want("latest", image, Miss, 0)
		s.down.Store(true)
		s.client.Close()
		s.wantTags("", Stale, "latest")
		r, _ := s.get(hub + "/" + second + "/tags/list")
		r.wantStatus(t, http.StatusBadGateway)
	})
}

// wantReferrers checks which manifests are told to refer to one.
func (s *still) wantReferrers(to upstreamtest.Blob, query string, result Result, want ...upstreamtest.Blob) {
	s.t.Helper()
	r, _ := s.get(hub + "/" + first + "/referrers/" + to.Digest.String() + query)
	r.wantStatus(s.t, http.StatusOK, result)
	var index imagespec.Index
	if err := json.Unmarshal(r.body, &index); err != nil {
		s.t.Error(err)
	}
	var got, wanted []string
	for _, desc := range index.Manifests {
		got = append(got, desc.Digest.String())
	}
	for _, blob := range want {
		wanted = append(wanted, blob.Digest.String())
	}
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		s.t.Errorf("referrers%s are %v, want %v", query, got, wanted)
	}
}

func TestReferrersAreTheUpstreams(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprint("api ", api), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
				s.upstream.SetReferrersAPI(api)
				sbom := s.upstream.AddReferrer(first, image.Manifest, "application/spdx+json", []byte("sbom"))
				signature := s.upstream.AddReferrer(first, image.Manifest, "application/vnd.cosign", []byte("signature"))
				s.wantReferrers(image.Manifest, "", Miss, sbom, signature)
				s.asked.seen = nil
				s.wantReferrers(image.Manifest, "?artifactType=application/spdx%2Bjson", Hit, sbom)
				s.wantAsked()
				s.wantReferrers(signature, "", Miss)

				// What was pulled is known when the upstream is not there.
				r, _ := s.get(manifestPath(first, signature.Digest.String()))
				r.wantStatus(t, http.StatusOK, Miss)
				s.wantReferrers(image.Manifest, "", Hit, sbom, signature)
				s.restartCache()
				s.down.Store(true)
				s.client.Close()
				s.wantReferrers(image.Manifest, "", Stale, signature)
				// That there are none is not said without it.
				r, _ = s.get(hub + "/" + first + "/referrers/" + sbom.Digest.String())
				r.wantStatus(t, http.StatusBadGateway)
			})
		})
	}
}

// restartCache forgets what is only in memory.
func (s *still) restartCache() {
	s.t.Helper()
	s.close()
	s.open()
}

func TestListsThatAreRememberedAreBounded(t *testing.T) {
	l := newLists(tagSize)
	long := make([]string, maxListed/4/tagSize(""))
	for i := range 10 {
		l.put(fmt.Sprint(i), long)
	}
	if _, ok := l.get("0"); ok || l.bytes > maxListed || l.lru.Len() != 3 {
		t.Errorf("%d lists of %d bytes are kept", l.lru.Len(), l.bytes)
	}
	l.put("9", []string{strings.Repeat("x", maxListed)})
	if l.bytes != 0 || l.lru.Len() != 0 {
		t.Errorf("%d lists of %d bytes are kept", l.lru.Len(), l.bytes)
	}
	for i := range 2 * maxListed / listOverhead {
		l.put(fmt.Sprint(i), nil)
	}
	if l.bytes > maxListed {
		t.Errorf("%d empty lists are kept", l.lru.Len())
	}
}

func TestRulesOfTheCache(t *testing.T) {
	options := Options{Access: Access{Allow: glob.Set{"library/*"}, Deny: glob.Set{"library/second"}}}
	inBubble(t, options, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.want("latest", image, Miss, 0)
		s.asked.seen = nil
		var blob upstreamtest.Blob
		for _, repository := range []string{second, "other/app"} {
			blob = s.upstream.AddBlob(repository, []byte("layer"))
			denied := s.upstream.AddImage(repository, "latest", []byte("layer"))
			view := s.view(hub+"/"+repository, new([]Result))
			ctx, name := t.Context(), hub+"/"+repository
			_, byTag := view.Manifest(ctx, name, storage.Reference{Tag: "latest"})
			_, byDigest := view.Manifest(ctx, name, storage.Reference{Digest: denied.Manifest.Digest})
			_, stat := view.StatBlob(ctx, name, blob.Digest)
			_, _, open := view.OpenBlob(ctx, name, blob.Digest)
			_, tags := view.Tags(ctx, name, "", 10)
			_, referrers := view.Referrers(ctx, name, denied.Manifest.Digest, "", "", 10)
			for what, err := range map[string]error{"tag": byTag, "digest": byDigest, "HEAD": stat, "blob": open, "tags": tags, "referrers": referrers} {
				if !errors.Is(err, ErrNotAllowed) {
					t.Errorf("%s of %s: %v", what, repository, err)
				}
			}
		}
		s.wantAsked()

		// What a rule denies from now on is not served from here either.
		s.cache.Access.Deny = glob.Set{first}
		view := s.view(hub+"/"+first, new([]Result))
		if _, err := view.Manifest(t.Context(), hub+"/"+first, storage.Reference{Digest: image.Manifest.Digest}); !errors.Is(err, ErrNotAllowed) {
			t.Errorf("by digest: %v", err)
		}
		if _, err := view.Tags(t.Context(), hub+"/"+first, "", 10); !errors.Is(err, ErrNotAllowed) {
			t.Errorf("tags: %v", err)
		}
		synctest.Wait()
	})
}
