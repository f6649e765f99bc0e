package storagetest

import (
	"context"
	"fmt"
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
	{"a dry run tells what goes and removes nothing", testCollectDryRun},
	{"files that no fact mentions are removed", testCollectOrphans},
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
