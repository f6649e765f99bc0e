package storagetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// TestRegistry tests the promises of a registry over a storage. fresh makes an empty one.
func TestRegistry(t *testing.T, fresh func(testing.TB) Open) {
	for _, group := range []struct {
		name  string
		tests []registryTest
	}{
		{"blobs", blobTests},
		{"uploads", uploadTests},
		{"manifests", manifestTests},
		{"lists", listTests},
		{"races", raceTests},
		{"copies", copyTests},
		{"collection", collectTests},
		{"restoring", restoreTests},
		{"retention", retentionTests},
		{"quotas", quotaTests},
		{"moves", moveTests},
		{"accounts", accountTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			for _, test := range group.tests {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					test.run(t, newRegistry(t, fresh))
				})
			}
		})
	}
	t.Run("collection beside everything", func(t *testing.T) {
		t.Parallel()
		testCollectBesideEverything(t, fresh)
	})
	t.Run("model", func(t *testing.T) {
		t.Parallel()
		testModel(t, fresh)
	})
}

type registryTest struct {
	name string
	run  func(*testing.T, *registry)
}

var blobTests = []registryTest{
	{"a pushed blob is in its repository only, also after a restart", testPushBlob},
	{"an empty blob is a blob", testPushEmptyBlob},
	{"a pushed blob with another digest leaves nothing", testPushMismatch},
	{"a push that breaks off leaves nothing", testPushBroken},
	{"a mounted blob is in both repositories", testMount},
	{"a blob is mounted only from where it may be read", testMountReadable},
	{"a blob that a manifest names is not deleted", testDeleteReferencedBlob},
	{"a deleted blob is gone from one repository", testDeleteOneBlob},
}

func testPushBlob(t *testing.T, r *registry) {
	for _, d := range []digest.Digest{digest.SHA256.FromString("abc"), digest.SHA512.FromString("abc")} {
		for range 2 { // again is no error
			if err := r.PushBlob(context.Background(), "a/b", strings.NewReader("abc"), d); err != nil {
				t.Fatalf("PushBlob: %v", err)
			}
		}
		if size, err := r.StatBlob(context.Background(), "a/b", d); err != nil || size != 3 {
			t.Errorf("StatBlob = %d, %v, want 3", size, err)
		}
		r.wantNoBlob("a", d)
		r.wantNoBlob("a/b", digest.FromString("other"))
	}
	r.push("c", "abc")
	r.restart()
	r.wantBlob("a/b", digest.SHA256.FromString("abc"))
	r.wantBlob("a/b", digest.SHA512.FromString("abc"))
	r.wantBlob("c", digest.FromString("abc"))
	r.wantStats(storage.Stats{Blobs: 2, BlobBytes: 6})
}

func testPushEmptyBlob(t *testing.T, r *registry) {
	d := r.push("a", "")
	r.wantBlob("a", d)
	r.put("a", image(t, d, d), "latest")
}

func testPushMismatch(t *testing.T, r *registry) {
	d := digest.FromString("abc")
	err := r.PushBlob(context.Background(), "a", strings.NewReader("abd"), d)
	wantError(t, "PushBlob", err, storage.ErrDigestInvalid)
	r.wantNoBlob("a", d)
	r.wantNoBlob("a", digest.FromString("abd"))
	r.wantNothing()
	wantError(t, "Tags", second(r.Tags(context.Background(), "a", "", 10)), storage.ErrNameUnknown)
}

func testPushBroken(t *testing.T, r *registry) {
	broken := newBody("ab")
	broken.err = context.DeadlineExceeded
	err := r.PushBlob(context.Background(), "a", broken, digest.FromString("abc"))
	wantError(t, "PushBlob", err, storage.ErrUploadInvalid)
	r.wantNothing()
}

// wantNothing checks that nothing is kept and no upload takes room.
func (r *registry) wantNothing() {
	r.t.Helper()
	r.wantStats(storage.Stats{})
	for id, err := range r.blobs.Uploads(context.Background()) {
		r.t.Errorf("upload %s still takes room, %v", id, err)
	}
}

func second[T any](_ T, err error) error { return err }

func testMount(t *testing.T, r *registry) {
	ctx := context.Background()
	d := r.push("a", "abc")
	for range 2 {
		if err := r.MountBlob(ctx, "b", "a", d, nil); err != nil {
			t.Fatalf("MountBlob: %v", err)
		}
	}
	if err := r.MountBlob(ctx, "c", "", d, nil); err != nil {
		t.Fatalf("MountBlob without from: %v", err)
	}
	if err := r.MountBlob(ctx, "a", "a", d, nil); err != nil {
		t.Fatalf("MountBlob from itself: %v", err)
	}
	r.wantBlob("b", d)
	r.wantBlob("c", d)
	for _, from := range []string{"d", "absent"} { // neither has it
		wantError(t, "MountBlob", r.MountBlob(ctx, "d", from, d, nil), storage.ErrBlobUnknown)
	}
	wantError(t, "MountBlob", r.MountBlob(ctx, "d", "", digest.FromString("absent"), nil), storage.ErrBlobUnknown)
	wantError(t, "Tags", second(r.Tags(ctx, "d", "", 10)), storage.ErrNameUnknown) // a refused mount makes none
	r.wantNoBlob("d", d)
	r.wantStats(storage.Stats{Blobs: 1, BlobBytes: 3})
}

func testMountReadable(t *testing.T, r *registry) {
	ctx := context.Background()
	d := r.push("private/a", "abc")
	var asked []string
	public := func(repository string) bool {
		asked = append(asked, repository)
		return !strings.HasPrefix(repository, "private/")
	}
	for _, from := range []string{"", "private/a"} {
		wantError(t, "MountBlob", r.MountBlob(ctx, "b", from, d, public), storage.ErrBlobUnknown)
		r.wantNoBlob("b", d)
	}
	if !slices.Contains(asked, "private/a") {
		t.Errorf("readable was asked for %v only", asked)
	}
	r.push("public/a", "abc")
	if err := r.MountBlob(ctx, "b", "", d, public); err != nil {
		t.Errorf("MountBlob: %v", err)
	}
	r.wantBlob("b", d)
}

func testDeleteReferencedBlob(t *testing.T, r *registry) {
	ctx := context.Background()
	m := r.pushImage("a", "layer")
	config, layer := digest.FromString("{}"), digest.FromString("layer")
	r.push("b", "layer")
	r.put("a", m)
	for _, d := range []digest.Digest{config, layer} {
		wantError(t, "DeleteBlob", r.DeleteBlob(ctx, "a", d), storage.ErrBlobReferenced)
		r.wantBlob("a", d)
	}
	if err := r.DeleteBlob(ctx, "b", layer); err != nil {
		t.Errorf("DeleteBlob where nothing names it: %v", err)
	}
	if err := r.DeleteManifest(ctx, "a", m.Digest); err != nil {
		t.Fatalf("DeleteManifest: %v", err)
	}
	for _, d := range []digest.Digest{config, layer} {
		if err := r.DeleteBlob(ctx, "a", d); err != nil {
			t.Errorf("DeleteBlob once nothing names it: %v", err)
		}
	}
}

func testDeleteOneBlob(t *testing.T, r *registry) {
	ctx := context.Background()
	d := r.push("a", "abc")
	r.push("b", "abc")
	open, _, err := r.OpenBlob(ctx, "a", d)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := r.DeleteBlob(ctx, "a", d); err != nil {
		t.Errorf("DeleteBlob: %v", err)
	}
	r.wantNoBlob("a", d)
	r.wantBlob("b", d)
	wantError(t, "DeleteBlob again", r.DeleteBlob(ctx, "a", d), storage.ErrBlobUnknown)
	wantError(t, "DeleteBlob of none", r.DeleteBlob(ctx, "a", digest.FromString("absent")), storage.ErrBlobUnknown)
	wantError(t, "DeleteBlob in no repository", r.DeleteBlob(ctx, "absent", d), storage.ErrNameUnknown)
	r.push("a", "abc")
	r.wantBlob("a", d)
}

var listTests = []registryTest{
	{"tags are listed in bytewise order, page by page", testTags},
	{"repositories are listed once they hold a manifest", testRepositories},
	{"stats count each blob once", testStats},
	{"deleting a repository empties it and keeps its name", testDeleteRepository},
}

func testTags(t *testing.T, r *registry) {
	ctx := context.Background()
	wantError(t, "Tags", second(r.Tags(ctx, "a", "", 10)), storage.ErrNameUnknown)
	m := r.pushImage("a", "layer")
	r.put("a", m)
	if tags, err := r.Tags(ctx, "a", "", 10); err != nil || len(tags) > 0 {
		t.Errorf("Tags = %v, %v of a repository without any", tags, err)
	}
	want := []string{"v1", "V1", "_", "1.10", "1.9", "latest", "a-b", "a.b", "a_b", "ab", "Z", "z"}
	r.put("a", m, want...)
	r.put("b", r.pushImage("b"), "other")
	slices.Sort(want) // bytewise, as Go's strings compare
	wantPages(t, "Tags", want, func(last string, n int) ([]string, error) { return r.Tags(ctx, "a", last, n) })
	if tags, err := r.Tags(ctx, "a", "absent", 2); err != nil || !slices.Equal(tags, []string{"latest", "v1"}) {
		t.Errorf("Tags after one that is not there = %v, %v", tags, err)
	}
	if tags, err := r.Tags(ctx, "a", "", 0); err != nil || len(tags) > 0 {
		t.Errorf("no tags asked for, got %v, %v", tags, err)
	}
}

// wantPages checks a list in pages of every size.
func wantPages(t testing.TB, what string, want []string, page func(last string, n int) ([]string, error)) {
	t.Helper()
	for n := 1; n <= len(want)+1; n++ {
		var got []string
		for last := ""; ; last = got[len(got)-1] {
			some, err := page(last, n)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if len(some) > n {
				t.Fatalf("%s: %d asked for, got %d", what, n, len(some))
			}
			got = append(got, some...)
			if len(some) < n {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s in pages of %d: %v, want %v", what, n, got, want)
		}
	}
}

func testRepositories(t *testing.T, r *registry) {
	ctx := context.Background()
	list := func(last string, n int) ([]string, error) { return r.Repositories(ctx, last, n) }
	wantPages(t, "Repositories", nil, list)
	r.push("blobs/only", "abc")
	want := []string{"a", "a-b", "a.b", "a/b", "a/b/c", "a0", "b", "z"}
	for _, name := range []string{"z", "a/b/c", "a0", "a", "b", "a-b", "a/b", "a.b"} {
		r.put(name, r.pushImage(name))
	}
	wantPages(t, "Repositories", want, list)
	if err := r.DeleteManifest(ctx, "b", r.pushImage("b").Digest); err != nil {
		t.Fatal(err)
	}
	want = slices.Delete(want, 6, 7)
	wantPages(t, "Repositories", want, list)
	r.restart()
	wantPages(t, "Repositories", want, list)
}

func testStats(t *testing.T, r *registry) {
	r.wantStats(storage.Stats{})
	m := r.pushImage("a", "1234", "12")
	r.put("a", m, "x", "y")
	r.put("b", r.pushImage("b", "1234"), "x")
	r.push("c", "12") // no manifest, not a repository that counts
	id := r.begin("d")
	want := storage.Stats{Repositories: 2, Manifests: 2, Tags: 3, Blobs: 3, BlobBytes: 8, Uploads: 1}
	r.wantStats(want)
	r.put("a", m, "x", "z")
	want.Tags++
	r.wantStats(want)
	if err := r.CancelUpload(context.Background(), "d", id); err != nil {
		t.Fatal(err)
	}
	want.Uploads--
	r.wantStats(want)
	r.restart()
	r.wantStats(want)
}

func testDeleteRepository(t *testing.T, r *registry) {
	ctx := context.Background()
	wantError(t, "DeleteRepository", r.DeleteRepository(ctx, "a"), storage.ErrNameUnknown)
	m := r.pushImage("a", "layer")
	r.put("a", m, "x", "y")
	r.put("a", index(t, m.Digest), "index")
	r.pushImage("b", "layer")
	r.put("b", m, "x")
	for _, reference := range []string{"x", m.Digest.String()} {
		r.wantManifest("a", reference, m) // is remembered from now on
	}
	if err := r.DeleteRepository(ctx, "a"); err != nil {
		t.Fatalf("DeleteRepository: %v", err)
	}
	for range 2 {
		for _, reference := range []string{"x", "y", "index", m.Digest.String()} {
			r.wantNoManifest("a", reference, storage.ErrManifestUnknown) // not ErrNameUnknown: the name stays known
		}
		r.wantNoBlob("a", digest.FromString("layer"))
		if tags, err := r.Tags(ctx, "a", "", 10); err != nil || len(tags) > 0 {
			t.Errorf("Tags = %v, %v", tags, err)
		}
		if names, err := r.Repositories(ctx, "", 10); err != nil || !slices.Equal(names, []string{"b"}) {
			t.Errorf("Repositories = %v, %v", names, err)
		}
		r.wantManifest("b", "x", m)
		r.wantBlob("b", digest.FromString("layer"))
		r.restart()
	}
	if err := r.DeleteRepository(ctx, "a"); err != nil {
		t.Errorf("DeleteRepository of an empty one: %v", err)
	}
	wantError(t, "PutManifest", second(r.PutManifest(ctx, "a", m, storage.Put{})), storage.ErrManifestBlobUnknown)
	r.pushImage("a", "layer")
	r.put("a", m, "x")
	r.wantManifest("a", "x", m)
}

// distinct returns contents that no other call gives the same i for.
func distinct(i int) string { return fmt.Sprintf("content %d", i) }
