package storagetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

var retentionTests = []registryTest{
	{"retention keeps tags by name, by age and by use", testRetention},
	{"retention takes manifests along that nothing else needs", testRetentionManifests},
	{"retention lets signatures live as long as what they sign", testRetentionSignatures},
}

// tagsOf returns the tags of a repository in one string.
func (r *registry) tagsOf(repository string) string {
	r.t.Helper()
	tags, err := r.Tags(context.Background(), repository, "", 100)
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Join(tags, " ")
}

func testRetention(t *testing.T, r *registry) {
	for _, repository := range []string{"named", "last", "pulled", "all", "other"} {
		for i := range 5 {
			r.put(repository, r.pushImage(repository, fmt.Sprint(i)), fmt.Sprintf("v%d", i))
			r.age(time.Hour)
		}
	}
	r.age(100 * day)
	r.manifest("pulled", "v2")
	r.manifest("all", "v1")
	r.age(day)
	named := func(tag string) bool { return tag == "v0" || tag == "v3" }
	is := func(name string) func(string) bool { return func(repository string) bool { return repository == name } }
	rules := []storage.Retention{
		{Match: is("named"), KeepTags: named},
		{Match: is("last"), KeepLast: 2},
		{Match: is("pulled"), KeepPulledWithin: 10 * day},
		{Match: is("all"), KeepTags: named, KeepLast: 1, KeepPulledWithin: 10 * day},
		{Match: is("last"), KeepLast: 0, KeepTags: named}, // another one has decided
	}
	for range 2 {
		r.collect(storage.CollectOptions{Retention: rules})
		for repository, want := range map[string]string{
			"named": "v0 v3", "last": "v3 v4", "pulled": "v2", "all": "v0 v1 v3 v4", "other": "v0 v1 v2 v3 v4",
		} {
			if got := r.tagsOf(repository); got != want {
				t.Errorf("%s has %s, want %s", repository, got, want)
			}
		}
	}
}

func testRetentionManifests(t *testing.T, r *registry) {
	everything := func(string) bool { return true }
	shared := r.pushImage("a", "shared")
	old, kept := index(t, shared.Digest, r.putImage("a", "old").Digest), index(t, shared.Digest)
	signature := referrer(t, old.Digest)
	r.put("a", shared)
	r.put("a", old, "v1")
	r.put("a", signature)
	r.put("a", kept, "v2")
	twice := r.putImage("a", "twice")
	r.put("a", twice, "v3", "keep")
	alone := r.putImage("a", "was never tagged")
	rules := []storage.Retention{{Match: everything, KeepTags: func(tag string) bool { return tag == "v2" || tag == "keep" }}}
	if got := r.collect(storage.CollectOptions{Retention: rules}); got.Tags != 2 || got.Manifests != 3 {
		t.Errorf("collected %+v, want v1 and v3, and the index of v1, its entry and its signature", got)
	}
	r.wantNoManifest("a", old.Digest.String(), storage.ErrManifestUnknown)
	r.wantNoManifest("a", signature.Digest.String(), storage.ErrManifestUnknown)
	for _, m := range []*storage.Manifest{shared, kept, twice, alone} {
		r.wantManifest("a", m.Digest.String(), m)
	}
	if _, err := r.RestoreTag(context.Background(), "a", "v1", old.Digest); err != nil {
		t.Fatal(err)
	}
	r.wantManifest("a", "v1", old)
	r.wantBlob("a", digest.FromString("old"))
	r.wantManifest("a", signature.Digest.String(), signature)
}

// putImage pushes an image, and puts it without a tag.
func (r *registry) putImage(repository, layer string) *storage.Manifest {
	r.t.Helper()
	m := r.pushImage(repository, layer)
	r.put(repository, m)
	return m
}

func testRetentionSignatures(t *testing.T, r *registry) {
	tagFor := func(m *storage.Manifest) string { return "sha256-" + m.Digest.Encoded() + ".sig" }
	var images []*storage.Manifest
	for i := range 3 {
		m := r.putImage("a", fmt.Sprint(i))
		r.put("a", m, fmt.Sprintf("v%d", i))
		r.put("a", r.putImage("a", fmt.Sprint("signature ", i)), tagFor(m))
		images = append(images, m)
		r.age(2 * time.Hour)
	}
	rules := []storage.Retention{{Match: func(string) bool { return true }, KeepLast: 2}}
	r.collect(storage.CollectOptions{Retention: rules})
	want := []string{tagFor(images[1]), tagFor(images[2]), "v1", "v2"}
	slices.Sort(want)
	if got := r.tagsOf("a"); got != strings.Join(want, " ") {
		t.Errorf("tags are %s, want %s", got, strings.Join(want, " "))
	}
}
