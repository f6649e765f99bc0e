package storagetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

var restoreTests = []registryTest{
	{"a deleted tag is restored until the delay has passed", testRestoreTag},
	{"a deleted repository's tag is restored with all of it", testRestoreFromRepository},
	{"only what a repository held is restored to it", testRestoreTakesNothing},
	{"an index brings back entries that were collected, not those that were deleted", testReviveChildren},
	{"what tags were is told as long as it can be restored", testTagHistory},
}

func testRestoreTag(t *testing.T, r *registry) {
	ctx := context.Background()
	child := r.pushImage("a", "layer")
	all := index(t, child.Digest)
	signature := referrer(t, all.Digest)
	r.put("a", child)
	r.put("a", all, "v1", "latest")
	r.put("a", signature)
	for _, m := range []*storage.Manifest{all, signature, child} {
		if err := r.DeleteManifest(ctx, "a", m.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.DeleteBlob(ctx, "a", digest.FromString("layer")); err != nil {
		t.Fatal(err)
	}
	r.wantNoManifest("a", "v1", storage.ErrManifestUnknown)
	r.wantNoBlob("a", digest.FromString("layer"))
	r.age(59 * time.Minute)
	r.collect(storage.CollectOptions{})
	r.restart()
	if change, err := r.RestoreTag(ctx, "a", "v1", all.Digest); err != nil || change == nil || change.Previous != "" {
		t.Fatalf("RestoreTag = %+v, %v", change, err)
	}
	if change, err := r.RestoreTag(ctx, "a", "v1", all.Digest); err != nil || change != nil {
		t.Errorf("RestoreTag again = %+v, %v", change, err)
	}
	r.wantManifest("a", "v1", all)
	r.wantManifest("a", child.Digest.String(), child)
	r.wantManifest("a", signature.Digest.String(), signature)
	r.wantBlob("a", digest.FromString("layer"))
	r.wantNoManifest("a", "latest", storage.ErrManifestUnknown)
	if err := checkBooks(r.database); err != nil {
		t.Error(err)
	}
	if err := r.DeleteManifest(ctx, "a", all.Digest); err != nil {
		t.Fatal(err)
	}
	r.age(2 * time.Hour)
	r.collect(storage.CollectOptions{})
	_, err := r.RestoreTag(ctx, "a", "v1", all.Digest)
	wantError(t, "RestoreTag after the delay", err, storage.ErrManifestUnknown)
	_, err = r.RestoreTag(ctx, "nowhere", "v1", all.Digest)
	wantError(t, "RestoreTag in no repository", err, storage.ErrNameUnknown)
}

func testRestoreFromRepository(t *testing.T, r *registry) {
	ctx := context.Background()
	m := r.pushImage("a", "layer")
	r.put("a", m, "v1")
	if err := r.DeleteRepository(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	r.wantNoBlob("a", digest.FromString("layer"))
	r.collect(storage.CollectOptions{})
	if _, err := r.RestoreTag(ctx, "a", "v1", m.Digest); err != nil {
		t.Fatal(err)
	}
	r.wantManifest("a", "v1", m)
	r.wantBlob("a", digest.FromString("layer"))
	r.age(2 * time.Hour)
	r.collect(storage.CollectOptions{})
	r.wantBlob("a", digest.FromString("layer"))
	r.wantBlob("a", digest.FromString("{}"))
}

// testRestoreTakesNothing has a manifest restored that named a blob which its repository
// never had, but another one does.
func testRestoreTakesNothing(t *testing.T, r *registry) {
	ctx := context.Background()
	secret := r.push("secret", "secret")
	r.put("secret", image(t, r.push("secret", "{}"), secret), "v1")
	m := image(t, r.push("a", "{}"), secret)
	if _, err := r.PutManifest(ctx, "a", m, storage.Put{Sparse: storage.SparseOn, Tags: []string{"v1"}}); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteManifest(ctx, "a", m.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RestoreTag(ctx, "a", "v1", m.Digest); err != nil {
		t.Fatal(err)
	}
	r.wantNoBlob("a", secret)
	_, err := r.RestoreTag(ctx, "a", "v2", secret)
	wantError(t, "RestoreTag of a blob", err, storage.ErrManifestUnknown)
}

func testReviveChildren(t *testing.T, r *registry) {
	ctx := context.Background()
	collected, deleted := r.pushImage("a", "1"), r.pushImage("a", "2")
	r.put("a", collected)
	r.put("a", deleted)
	r.age(2 * day)
	if err := r.DeleteManifest(ctx, "a", deleted.Digest); err != nil {
		t.Fatal(err)
	}
	if got := r.collect(storage.CollectOptions{Untagged: day}); got.Manifests != 1 {
		t.Fatalf("collected %+v", got)
	}
	r.put("a", index(t, collected.Digest, deleted.Digest), "latest")
	r.wantManifest("a", collected.Digest.String(), collected)
	r.wantNoManifest("a", deleted.Digest.String(), storage.ErrManifestUnknown)
	r.age(2 * day)
	r.collect(storage.CollectOptions{Untagged: day})
	r.wantBlob("a", digest.FromString("1"))
}

func testTagHistory(t *testing.T, r *registry) {
	ctx := context.Background()
	one, two := r.pushImage("a", "1"), r.pushImage("a", "2")
	r.put("a", one, "latest", "v1")
	r.put("a", two, "latest")
	r.put("a", two, "latest") // again is no move
	if err := r.DeleteTag(ctx, "a", "latest"); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteManifest(ctx, "a", one.Digest); err != nil {
		t.Fatal(err)
	}
	history := func() (all []string) {
		t.Helper()
		for last := int64(0); ; {
			page, next, err := r.TagHistory(ctx, "a", last, 1)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				return all
			}
			last = next
			for _, tag := range page {
				if tag.Since.IsZero() || tag.Until.Before(tag.Since) {
					t.Errorf("%s was %s from %v to %v", tag.Name, tag.Digest, tag.Since, tag.Until)
				}
				all = append(all, fmt.Sprintf("%s %s %t", tag.Name, tag.Digest.Encoded()[:8], tag.Restorable))
			}
		}
	}
	short := func(m *storage.Manifest) string { return m.Digest.Encoded()[:8] }
	want := []string{"latest " + short(one) + " true", "latest " + short(two) + " true", "v1 " + short(one) + " true"}
	if got := history(); !slices.Equal(got, want) {
		t.Errorf("history is %q, want %q", got, want)
	}
	r.age(2 * time.Hour)
	r.collect(storage.CollectOptions{})
	if got := history(); !slices.Equal(got, want[1:2]) {
		t.Errorf("once the deleted manifest is gone it is %q, want %q", got, want[1:2])
	}
	r.put("a", two, "now")
	tags, err := r.DescribeTags(ctx, "a", "", 10)
	if err != nil || len(tags) != 1 || tags[0].Name != "now" || tags[0].Digest != two.Digest || tags[0].Since.IsZero() || !tags[0].Until.IsZero() {
		t.Errorf("DescribeTags = %+v, %v", tags, err)
	}
	_, _, err = r.TagHistory(ctx, "nowhere", 0, 1)
	wantError(t, "TagHistory", err, storage.ErrNameUnknown)
}
