package storagetest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

var collectTests = []registryTest{
	{"a blob that no manifest names goes after the delay", testCollectLooseBlob},
	{"a blob that is asked for is kept a while longer", testCollectAskedFor},
	{"what was pushed before is kept for what is being pushed", testCollectBesidePush},
	{"bytes stay as long as one repository holds them", testCollectShared},
	{"untagged manifests stay unless it is said how long", testCollectUntaggedStay},
	{"untagged manifests go with what was kept for them", testCollectUntagged},
	{"a manifest that is pulled does not get old", testCollectPulled},
	{"entries of a kept index and referrers of a kept manifest stay", testCollectNeeded},
	{"copies are not collected by their tags", testCollectCopies},
	{"a deleted tag is restored until the delay has passed", testRestoreTag},
	{"a deleted repository's tag is restored with all of it", testRestoreFromRepository},
	{"only what a repository held is restored to it", testRestoreTakesNothing},
	{"an index brings back entries that were collected, not those that were deleted", testReviveChildren},
	{"what tags were is told as long as it can be restored", testTagHistory},
	{"retention keeps tags by name, by age and by use", testRetention},
	{"retention takes manifests along that nothing else needs", testRetentionManifests},
	{"retention lets signatures live as long as what they sign", testRetentionSignatures},
	{"a dry run tells what goes and removes nothing", testCollectDryRun},
	{"files that no fact mentions are removed", testCollectOrphans},
	{"quotas count shared blobs once", testQuota},
	{"a quota is kept to by whoever comes first", testQuotaRace},
	{"an interrupted collection is gone on with", testCollectInterrupted},
}

// age makes all that is, and was, older.
func (r *registry) age(by time.Duration) {
	r.t.Helper()
	if err := r.FlushPulls(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	seconds := int64(by / time.Second)
	err := r.database.Write(context.Background(), func(tx storage.Tx) error {
		for _, statement := range []string{
			`UPDATE repository_blobs SET unreferenced = unreferenced - $1, created = created - $1`,
			`UPDATE manifests SET untagged = untagged - $1 WHERE untagged > 0`,
			`UPDATE manifests SET created = created - $1`,
			`UPDATE manifests SET pulled = pulled - $1 WHERE pulled > 0`,
			`UPDATE tags SET updated = updated - $1`,
			`UPDATE tag_history SET since = since - $1, until = until - $1`,
			`UPDATE deleted_manifests SET deleted = deleted - $1`,
			`UPDATE deleted_blobs SET deleted = deleted - $1`,
			`UPDATE uploads SET updated = updated - $1`,
		} {
			if _, err := tx.Exec(statement, seconds); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		r.t.Fatalf("age: %v", err)
	}
}

// collect collects with a delay of one hour unless options say otherwise, and checks the
// books.
func (r *registry) collect(options storage.CollectOptions) storage.Collected {
	r.t.Helper()
	if options.Delay == 0 {
		options.Delay = time.Hour
	}
	if options.UploadExpiry == 0 {
		options.UploadExpiry = 100 * day
	}
	collected, err := r.Collect(context.Background(), options)
	if err != nil {
		r.t.Fatalf("Collect: %v", err)
	}
	if err := checkBooks(r.database); err != nil {
		r.t.Error(err)
	}
	return collected
}

// books are what the facts say of themselves, and what they would if it were counted anew.
var books = map[string]string{
	"blobs that a manifest names but that count as unreferenced, or the other way round": `
		SELECT count(*) FROM repository_blobs rb JOIN blobs b ON b.id = rb.blob
		WHERE (rb.unreferenced IS NULL) <> EXISTS (SELECT 1 FROM manifest_references WHERE repository = rb.repository AND digest = b.digest)`,
	"manifests that have a tag but count as untagged, or the other way round": `
		SELECT count(*) FROM manifests m
		WHERE (m.untagged IS NULL) <> EXISTS (SELECT 1 FROM tags WHERE manifest = m.id)`,
	"manifests that are due after all is done": `
		SELECT count(*) FROM manifests WHERE untagged = 0`,
	"manifests that are both there and deleted": `
		SELECT count(*) FROM manifests m JOIN deleted_manifests d ON d.repository = m.repository AND d.digest = m.digest`,
	"blobs that are both there and deleted": `
		SELECT count(*) FROM repository_blobs rb JOIN deleted_blobs d ON d.repository = rb.repository AND d.blob = rb.blob`,
	"blobs that nothing holds": `
		SELECT count(*) FROM blobs b
		WHERE NOT EXISTS (SELECT 1 FROM repository_blobs WHERE blob = b.id)
		AND NOT EXISTS (SELECT 1 FROM deleted_blobs WHERE blob = b.id)`,
	"blobs that only copies hold but that are not to be evicted, or the other way round": `
		SELECT count(*) FROM blobs b
		WHERE (b.evictable IS NOT NULL) <> (
			EXISTS (SELECT 1 FROM repository_blobs WHERE blob = b.id)
			AND NOT EXISTS (
				SELECT 1 FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
				WHERE rb.blob = b.id AND r.upstream IS NULL))`,
	"bytes of copies that are miscounted": `
		SELECT (SELECT bytes FROM usage WHERE name = 'copies') - (
			SELECT coalesce(sum(b.size), 0) FROM blobs b
			WHERE EXISTS (SELECT 1 FROM repository_blobs WHERE blob = b.id)
			AND NOT EXISTS (
				SELECT 1 FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
				WHERE rb.blob = b.id AND r.upstream IS NULL))`,
	"bytes of this registry's own that are miscounted": `
		SELECT coalesce((SELECT bytes FROM usage WHERE name = 'namespace private'), 0) - (
			SELECT coalesce(sum(b.size), 0) FROM blobs b WHERE EXISTS (
				SELECT 1 FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
				WHERE rb.blob = b.id AND r.upstream IS NULL))`,
}

// checkBooks tells which books are wrong.
func checkBooks(database storage.Database) error {
	for _, what := range slices.Sorted(maps.Keys(books)) {
		var n int64
		if err := database.Read(context.Background()).QueryRow(books[what]).Scan(&n); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if n != 0 {
			return fmt.Errorf("there are %d %s", n, what)
		}
	}
	return nil
}

// wantFiles checks that the blob store has the bytes of these blobs and no others.
func (r *registry) wantFiles(want ...digest.Digest) {
	r.t.Helper()
	got := map[digest.Digest]bool{}
	for key, err := range r.blobs.Blobs(context.Background()) {
		d := key.Digest
		if err != nil {
			r.t.Fatalf("Blobs: %v", err)
		}
		got[d] = true
	}
	for _, d := range want {
		if !got[d] {
			r.t.Errorf("the bytes of %s are gone", d)
		}
		delete(got, d)
	}
	for d := range got {
		r.t.Errorf("the bytes of %s are still there", d)
	}
}

func testCollectLooseBlob(t *testing.T, r *registry) {
	loose, named := r.push("a", "loose"), r.push("a", "named")
	m := image(t, r.push("a", "{}"), named)
	r.put("a", m, "v1")
	if got := r.collect(storage.CollectOptions{}); got != (storage.Collected{}) {
		t.Errorf("collected %+v before the delay has passed", got)
	}
	r.wantBlob("a", loose)
	r.age(2 * time.Hour)
	if got := r.collect(storage.CollectOptions{}); got.Blobs != 1 || got.Bytes != 5 {
		t.Errorf("collected %+v, want one blob of 5 bytes", got)
	}
	r.wantNoBlob("a", loose)
	r.wantFiles(named, digest.FromString("{}"))
	// The last manifest that names it goes: the delay counts from then.
	if err := r.DeleteManifest(context.Background(), "a", m.Digest); err != nil {
		t.Fatal(err)
	}
	r.collect(storage.CollectOptions{})
	r.wantBlob("a", named)
	r.age(2 * time.Hour)
	r.collect(storage.CollectOptions{})
	r.wantFiles()
	r.restart()
	r.wantNoBlob("a", named)
}

func testCollectAskedFor(t *testing.T, r *registry) {
	asked, mounted, pushed, not := r.push("a", "asked"), r.push("a", "mounted"), r.push("a", "pushed"), r.push("a", "not")
	r.age(2 * time.Hour)
	if _, err := r.StatBlob(context.Background(), "a", asked); err != nil {
		t.Fatal(err)
	}
	if err := r.MountBlob(context.Background(), "b", "a", mounted, nil); err != nil {
		t.Fatal(err)
	}
	r.push("a", "pushed")
	r.collect(storage.CollectOptions{})
	r.wantBlob("a", asked)
	r.wantBlob("a", pushed)
	r.wantBlob("b", mounted)
	r.wantNoBlob("a", mounted)
	r.wantNoBlob("a", not)
}

func testCollectBesidePush(t *testing.T, r *registry) {
	first, other := r.push("a", "first layer"), r.push("b", "of another repository")
	id := r.begin("a")
	r.add("a", id, "second ")
	r.age(2 * time.Hour)
	// It goes on.
	r.add("a", id, "layer")
	r.collect(storage.CollectOptions{})
	r.wantBlob("a", first)
	r.wantNoBlob("b", other)
	r.finish("a", id, "second layer")
	r.put("a", image(t, r.push("a", "{}"), first, digest.FromString("second layer")), "latest")
	r.age(2 * time.Hour)
	r.collect(storage.CollectOptions{})
	r.wantBlob("a", first)
	// What is never finished keeps nothing for ever.
	loose := r.push("a", "loose")
	r.begin("a")
	r.age(30 * time.Hour)
	r.begin("a")
	r.collect(storage.CollectOptions{})
	r.wantNoBlob("a", loose)
}

func testCollectShared(t *testing.T, r *registry) {
	shared := r.push("a", "shared")
	r.put("a", image(t, r.push("a", "{}"), shared), "v1")
	if err := r.MountBlob(context.Background(), "b", "a", shared, nil); err != nil {
		t.Fatal(err)
	}
	r.age(2 * time.Hour)
	if got := r.collect(storage.CollectOptions{}); got.Blobs != 0 || got.Bytes != 0 {
		t.Errorf("collected %+v", got)
	}
	r.wantNoBlob("b", shared)
	r.wantBlob("a", shared)
}

func testCollectUntaggedStay(t *testing.T, r *registry) {
	old, current := r.pushImage("a", "old"), r.pushImage("a", "new")
	r.put("a", old, "latest")
	r.put("a", current, "latest")
	r.age(1000 * day)
	if got := r.collect(storage.CollectOptions{}); got.Manifests != 0 || got.Blobs != 0 {
		t.Errorf("collected %+v", got)
	}
	r.wantManifest("a", old.Digest.String(), old)
	r.wantBlob("a", digest.FromString("old"))
}

func testCollectUntagged(t *testing.T, r *registry) {
	old, current, young := r.pushImage("a", "old"), r.pushImage("a", "new"), r.pushImage("a", "young")
	all := index(t, old.Digest)
	r.put("a", old)
	r.put("a", all, "latest")
	signature := referrer(t, all.Digest)
	r.put("a", signature)
	r.put("a", current, "latest")
	r.age(8 * day)
	r.put("a", young)
	untagged := storage.CollectOptions{Untagged: 7 * day}
	if got := r.collect(untagged); got.Manifests != 3 {
		t.Errorf("collected %+v, want the index, its entry and its signature", got)
	}
	for _, m := range []*storage.Manifest{old, all, signature} {
		r.wantNoManifest("a", m.Digest.String(), storage.ErrManifestUnknown)
	}
	r.wantManifest("a", young.Digest.String(), young)
	r.wantManifest("a", "latest", current)
	r.wantBlob("a", digest.FromString("old"))
	r.age(2 * time.Hour)
	r.collect(untagged)
	r.wantNoBlob("a", digest.FromString("old"))
	r.wantBlob("a", digest.FromString("new"))
	r.wantBlob("a", digest.FromString("young"))
}

func testCollectPulled(t *testing.T, r *registry) {
	m, other := r.pushImage("a", "1"), r.pushImage("a", "2")
	r.put("a", m)
	r.put("a", other)
	r.age(8 * day)
	r.wantManifest("a", m.Digest.String(), m)
	r.age(day)
	if got := r.collect(storage.CollectOptions{Untagged: 7 * day}); got.Manifests != 1 {
		t.Errorf("collected %+v, want the one that was not pulled", got)
	}
	r.wantManifest("a", m.Digest.String(), m)
	// From memory too.
	r.age(6*day + 12*time.Hour)
	if _, err := r.manifest("a", m.Digest.String()); err != nil {
		t.Fatal(err)
	}
}

// referrer returns an image that refers to a manifest, and needs the blob "{}".
func referrer(t testing.TB, subject digest.Digest) *storage.Manifest {
	t.Helper()
	s := descriptor(imagespec.MediaTypeImageManifest, subject)
	return parse(t, imagespec.MediaTypeImageManifest, imagespec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		ArtifactType: "application/vnd.example.signature",
		Config:       descriptor(imagespec.MediaTypeEmptyJSON, digest.FromString("{}")),
		Layers:       []imagespec.Descriptor{},
		Subject:      &s,
	})
}

func testCollectNeeded(t *testing.T, r *registry) {
	child := r.pushImage("a", "layer")
	inner := index(t, child.Digest)
	outer := index(t, inner.Digest)
	signature := referrer(t, child.Digest)
	countersignature := referrer(t, signature.Digest)
	for _, m := range []*storage.Manifest{child, inner, outer, signature, countersignature} {
		r.put("a", m)
	}
	r.put("a", outer, "latest")
	untagged := storage.CollectOptions{Untagged: day}
	for range 2 {
		r.age(100 * day)
		if got := r.collect(untagged); got.Manifests != 0 || got.Blobs != 0 {
			t.Errorf("collected %+v", got)
		}
	}
	if err := r.DeleteTag(context.Background(), "a", "latest"); err != nil {
		t.Fatal(err)
	}
	r.age(100 * day)
	if got := r.collect(untagged); got.Manifests != 5 {
		t.Errorf("collected %+v, want 5 manifests", got)
	}
	r.age(2 * time.Hour)
	r.collect(untagged)
	r.wantFiles()
}

func testCollectCopies(t *testing.T, r *registry) {
	ctx := context.Background()
	blob := r.fetch(hub, "docker.io/a", "layer")
	r.fetch(hub, "docker.io/a", "{}")
	old, current := image(t, digest.FromString("{}"), blob), image(t, digest.FromString("{}"))
	for _, m := range []*storage.Manifest{old, current} {
		if err := r.PutCached(ctx, hub, "docker.io/a", m, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	r.age(1000 * day)
	got := r.collect(storage.CollectOptions{
		Untagged:  day,
		Retention: []storage.Retention{{Match: func(string) bool { return true }, KeepLast: 1}},
	})
	if got.Manifests != 0 || got.Tags != 0 || got.Blobs != 0 {
		t.Errorf("collected %+v", got)
	}
	r.wantBlob("docker.io/a", blob)
	// What somebody deletes goes all the same.
	if err := r.DeleteManifest(ctx, "docker.io/a", old.Digest); err != nil {
		t.Fatal(err)
	}
	r.age(2 * time.Hour)
	r.collect(storage.CollectOptions{})
	r.wantNoBlob("docker.io/a", blob)
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

func testCollectDryRun(t *testing.T, r *registry) {
	old, kept := index(t, r.putImage("a", "old").Digest), r.putImage("a", "kept")
	r.put("a", old, "v1")
	r.put("a", kept, "v2")
	r.putImage("b", "never tagged")
	r.push("a", "loose")
	r.push("b", "loose")
	r.put("c", r.pushImage("c", "only retention takes it"), "v1")
	r.age(10 * day)
	r.begin("a")
	options := storage.CollectOptions{
		Delay: time.Hour, Untagged: day, UploadExpiry: day,
		Retention: []storage.Retention{{Name: "**", Match: func(string) bool { return true }, KeepTags: func(tag string) bool { return tag == "v2" }}},
	}
	before, err := r.Stats(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	dry := options
	dry.DryRun, dry.Report = true, func(p storage.Progress) { lines = append(lines, p.Line) }
	would := r.collect(dry)
	r.wantStats(before)
	did := r.collect(options)
	did.Blobs, did.Bytes, would.Blobs, would.Bytes = 0, 0, 0, 0 // those of manifests that went follow later
	if would != did {
		t.Errorf("a dry run tells of %+v, then it is %+v", would, did)
	}
	if did.Tags != 2 || did.Manifests != 4 {
		t.Errorf("collected %+v, want 2 tags and 4 manifests", did)
	}
	told := strings.Join(lines, "\n")
	for _, want := range []string{"tag a:v1", "retention **", "manifest a@" + old.Digest.String(), "manifest b@", "tag c:v1", "blob b@" + digest.FromString("loose").String()} {
		if !strings.Contains(told, want) {
			t.Errorf("nothing was told of %s:\n%s", want, told)
		}
	}
	if strings.Contains(told, kept.Digest.String()) || strings.Contains(told, digest.FromString("kept").String()) {
		t.Errorf("what is kept is told to go:\n%s", told)
	}
}

func testCollectOrphans(t *testing.T, r *registry) {
	known := r.push("a", "known")
	orphan := r.push("a", "orphan")
	err := r.database.Write(context.Background(), func(tx storage.Tx) error {
		if _, err := tx.Exec(`DELETE FROM repository_blobs WHERE blob = (SELECT id FROM blobs WHERE digest = $1)`, orphan.String()); err != nil {
			return err
		}
		if _, err := tx.Exec(`UPDATE usage SET bytes = bytes - 6 WHERE name = 'namespace private'`); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM blobs WHERE digest = $1`, orphan.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.collect(storage.CollectOptions{}); got.Orphans != 1 {
		t.Errorf("collected %+v, want one orphan", got)
	}
	r.wantFiles(known)
}

func testQuota(t *testing.T, r *registry) {
	ctx := context.Background()
	r.push("team/a", "before") // 6 bytes
	r.push("other", "not counted")
	quota := storage.Quota{Name: "team/**", Bytes: 20, Match: func(repository string) bool { return strings.HasPrefix(repository, "team/") }}
	if err := r.SetQuotas(ctx, []storage.Quota{quota}); err != nil {
		t.Fatal(err)
	}
	shared := r.push("team/a", "0123456789") // 16
	r.push("team/b", "0123456789")           // is there already
	if err := r.MountBlob(ctx, "team/c", "team/a", shared, nil); err != nil {
		t.Error(err)
	}
	over := digest.FromString("fives")
	wantError(t, "PushBlob", r.PushBlob(ctx, "team/b", strings.NewReader("fives"), over), storage.ErrQuota)
	r.wantNoBlob("team/b", over)
	r.wantFiles(digest.FromString("before"), digest.FromString("not counted"), shared)
	wantError(t, "MountBlob", r.MountBlob(ctx, "team/b", "other", digest.FromString("not counted"), nil), storage.ErrQuota)
	wantError(t, "CheckQuota", r.CheckQuota(ctx, "team/new", "", 5), storage.ErrQuota)
	if err := r.CheckQuota(ctx, "other", "", 1<<40); err != nil {
		t.Error(err)
	}
	id := r.begin("team/b")
	_, err := r.AppendUpload(ctx, "team/b", id, chunk("fives"))
	wantError(t, "AppendUpload", err, storage.ErrQuota)
	r.wantNoUpload("team/b", id)
	id = r.begin("team/b")
	untouched := newBody("five!")
	_, err = r.FinishUpload(ctx, "team/b", id, storage.Chunk{Body: untouched, Start: -1, Size: -1, Length: 5}, digest.FromString("five!"))
	wantError(t, "FinishUpload", err, storage.ErrQuota)
	if rest, err := io.ReadAll(untouched); err != nil || len(rest) != 5 {
		t.Errorf("only %d bytes of 5 were left untouched, %v", len(rest), err)
	}
	// What is there already takes no more.
	id = r.begin("team/b")
	if _, err := r.FinishUpload(ctx, "team/b", id, chunk("before"), digest.FromString("before")); err != nil {
		t.Error(err)
	}
	if err := r.CheckQuota(ctx, "team/new", shared, 10); err != nil {
		t.Error(err)
	}
	r.push("team/b", "four")
	// What is deleted counts no more at once, however long it can be restored.
	for _, repository := range []string{"team/a", "team/b"} {
		if err := r.DeleteBlob(ctx, repository, digest.FromString("before")); err != nil {
			t.Fatal(err)
		}
	}
	r.push("team/b", "fives")
	r.restart()
	if err := r.SetQuotas(ctx, []storage.Quota{quota}); err != nil {
		t.Fatal(err)
	}
	wantError(t, "PushBlob after a restart", r.PushBlob(ctx, "team/b", strings.NewReader("xx"), digest.FromString("xx")), storage.ErrQuota)
	// A quota that is not there for a while is counted anew.
	if err := r.SetQuotas(ctx, nil); err != nil {
		t.Fatal(err)
	}
	r.push("team/b", "much more than the quota")
	quota.Bytes = 44
	if err := r.SetQuotas(ctx, []storage.Quota{quota}); err != nil {
		t.Fatal(err)
	}
	r.push("team/b", "1")
	wantError(t, "PushBlob", r.PushBlob(ctx, "team/b", strings.NewReader("2"), digest.FromString("2")), storage.ErrQuota)
	r.collect(storage.CollectOptions{})
}

func testQuotaRace(t *testing.T, r *registry) {
	ctx := context.Background()
	if err := r.SetQuotas(ctx, []storage.Quota{{Name: "**", Bytes: 50, Match: func(string) bool { return true }}}); err != nil {
		t.Fatal(err)
	}
	var pushes []func() error
	for i := range 20 {
		content := fmt.Sprintf("ten bytes%d", i%10)
		pushes = append(pushes, func() error {
			return r.PushBlob(ctx, fmt.Sprint("r", i), strings.NewReader(content), digest.FromString(content))
		})
	}
	for _, err := range together(pushes...) {
		if err != nil {
			wantError(t, "PushBlob", err, storage.ErrQuota)
		}
	}
	stats, err := r.Stats(ctx)
	if err != nil || stats.BlobBytes != 50 {
		t.Errorf("%d bytes were taken, %v, want 50", stats.BlobBytes, err)
	}
	r.collect(storage.CollectOptions{})
}

func testCollectInterrupted(t *testing.T, r *registry) {
	for i := range 30 {
		r.put("a", r.pushImage("a", fmt.Sprint(i)), "latest")
		r.push("b", fmt.Sprint("loose ", i))
	}
	options := storage.CollectOptions{Delay: time.Hour, Untagged: day, UploadExpiry: day}
	for i := range 10 {
		r.age(2 * day)
		ctx, cancel := context.WithCancel(context.Background())
		var told int
		options.Report = func(storage.Progress) {
			if told++; told > i {
				cancel()
			}
		}
		_, _ = r.Collect(ctx, options)
		cancel()
		r.restart()
	}
	options.Report = nil
	r.age(2 * day)
	r.collect(options)
	r.age(2 * day)
	r.collect(options)
	r.wantFiles(digest.FromString("{}"), digest.FromString("29"))
	r.wantBlob("a", digest.FromString("29"))
}
