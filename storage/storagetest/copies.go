package storagetest

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

var copyTests = []registryTest{
	{"what is copied and what is pushed share no repository", testCopyTakesNoPush},
	{"a copy's manifest may name what is not there", testPutCached},
	{"a tag's confirmation is remembered", testConfirmTag},
	{"names are this registry's own by push, upload and first component", testIsOwn},
	{"manifests tell the size of what they name", testReferenced},
	{"a blob is shared by copies of one upstream only", testLinkCached},
	{"a fetched blob can be read while it arrives", testFetch},
	{"a suspended fetch goes on, also after a restart", testFetchGoesOn},
	{"a fetch that ended by a crash goes on", testFetchAfterCrash},
	{"a fetch of other bytes leaves nothing", testFetchMismatch},
	{"an abandoned fetch leaves its hash", testFetchAbandon},
	{"a fetch is no upload for clients, and expires as one", testFetchExpires},
	{"suspended fetches are discarded, others go on", testDiscardFetches},
	{"what is evicted is least recently pulled, and never pushed", testEvict},
	{"a blob that is pushed while it is evicted stays", testEvictAgainstPush},
}

const hub = "docker.io"

func testCopyTakesNoPush(t *testing.T, r *registry) {
	ctx := context.Background()
	m := image(t, digest.FromString("absent"))
	if err := r.PutCached(ctx, hub, "docker.io/library/a", m, "latest"); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("abc")
	wantError(t, "PushBlob", r.PushBlob(ctx, "docker.io/library/a", strings.NewReader("abc"), d), storage.ErrCopy)
	wantError(t, "PutManifest", second(r.PutManifest(ctx, "docker.io/library/a", m, storage.Put{Tags: []string{"mine"}, Sparse: storage.SparseOn})), storage.ErrCopy)
	r.push("b", "abc")
	wantError(t, "MountBlob", r.MountBlob(ctx, "docker.io/library/a", "b", d, nil), storage.ErrCopy)
	wantError(t, "PutCached", r.PutCached(ctx, hub, "b", m, "latest"), storage.ErrNotCopy)
	wantError(t, "PutCached of another upstream", r.PutCached(ctx, "quay.io", "docker.io/library/a", m, "latest"), storage.ErrNotCopy)
	r.wantNoBlob("docker.io/library/a", d)
}

func testPutCached(t *testing.T, r *registry) {
	ctx := context.Background()
	old, next := image(t, digest.FromString("old")), image(t, digest.FromString("next"))
	for _, m := range []*storage.Manifest{old, next, next} {
		if err := r.PutCached(ctx, hub, "docker.io/a", m, "latest"); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Manifest(ctx, "docker.io/a", storage.Reference{Tag: "latest"}); err != nil || got.Digest != m.Digest {
			t.Errorf("latest is %v, %v", got, err)
		}
	}
	r.restart()
	for _, m := range []*storage.Manifest{old, next} {
		if _, err := r.Manifest(ctx, "docker.io/a", storage.Reference{Digest: m.Digest}); err != nil {
			t.Error(err)
		}
	}
}

func testConfirmTag(t *testing.T, r *registry) {
	ctx := context.Background()
	if at, err := r.TagConfirmed(ctx, "docker.io/a", "latest"); err != nil || !at.IsZero() {
		t.Errorf("an absent tag was confirmed at %v, %v", at, err)
	}
	if err := r.PutCached(ctx, hub, "docker.io/a", image(t, digest.FromString("x")), "latest"); err != nil {
		t.Fatal(err)
	}
	if at, err := r.TagConfirmed(ctx, "docker.io/a", "latest"); err != nil || time.Since(at) > time.Minute {
		t.Errorf("a new tag was confirmed at %v, %v", at, err)
	}
	want := time.Unix(1_000_000_000, 0)
	if err := r.ConfirmTag(ctx, "docker.io/a", "latest", want); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if at, err := r.TagConfirmed(ctx, "docker.io/a", "latest"); err != nil || !at.Equal(want) {
		t.Errorf("confirmed at %v, %v, want %v", at, err, want)
	}
}

func testIsOwn(t *testing.T, r *registry) {
	ctx := context.Background()
	wantOwn := func(want bool, names ...string) {
		t.Helper()
		for _, name := range names {
			if own, err := r.IsOwn(ctx, name); err != nil || own != want {
				t.Errorf("IsOwn(%q) = %t, %v, want %t", name, own, err, want)
			}
		}
	}
	if err := r.PutCached(ctx, hub, "docker.io/library/a", image(t, digest.FromString("x")), "latest"); err != nil {
		t.Fatal(err)
	}
	wantOwn(false, "org/app", "org", "docker.io/library/a", "library/a")
	id := r.begin("org/app/web")
	wantOwn(true, "org/app/web", "org/other", "org")
	wantOwn(false, "or/app", "org2/app", "org-2/app", "org.x/app", "a/org")
	if err := r.CancelUpload(ctx, "org/app/web", id); err != nil {
		t.Fatal(err)
	}
	r.put("one", r.pushImage("one"), "latest")
	if err := r.DeleteRepository(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	wantOwn(true, "one", "one/two")
}

func testReferenced(t *testing.T, r *registry) {
	ctx := context.Background()
	layer := digest.FromString("layer")
	m := image(t, digest.FromString("{}"), layer)
	if err := r.PutCached(ctx, hub, "docker.io/a", m, ""); err != nil {
		t.Fatal(err)
	}
	got, err := r.Referenced(ctx, "docker.io/a", layer)
	if err != nil || !got.Named || got.Size < 0 {
		t.Errorf("Referenced = %+v, %v", got, err)
	}
	for _, absent := range []string{"docker.io/a", "docker.io/b"} {
		if got, err := r.Referenced(ctx, absent, digest.FromString("other")); err != nil || got.Named || got.Size != -1 {
			t.Errorf("Referenced in %s = %+v, %v", absent, got, err)
		}
	}
}

// fetch makes content a blob of a copy.
func (r *registry) fetch(upstream, repository, content string) digest.Digest {
	r.t.Helper()
	ctx := context.Background()
	d := digest.FromString(content)
	f, err := r.BeginFetch(ctx, upstream, d)
	if err != nil {
		r.t.Fatalf("BeginFetch: %v", err)
	}
	if _, err := f.ReadFrom(strings.NewReader(content[f.Size():])); err != nil {
		r.t.Fatalf("ReadFrom: %v", err)
	}
	if err := f.Commit(ctx, upstream, []string{repository}); err != nil {
		r.t.Fatalf("Commit: %v", err)
	}
	return d
}

func testLinkCached(t *testing.T, r *registry) {
	ctx := context.Background()
	own := r.push("own", "pushed")
	d := r.fetch(hub, "docker.io/a", "abc")
	for _, c := range []struct {
		upstream string
		digest   digest.Digest
	}{{hub, own}, {"quay.io", d}, {"quay.io", own}} {
		wantError(t, "CachedBlob", second(r.CachedBlob(ctx, c.upstream, c.digest)), storage.ErrBlobUnknown)
		wantError(t, "LinkCached", r.LinkCached(ctx, c.upstream, c.upstream+"/b", c.digest), storage.ErrBlobUnknown)
		r.wantNoBlob(c.upstream+"/b", c.digest)
	}
	if size, err := r.CachedBlob(ctx, hub, d); err != nil || size != 3 {
		t.Errorf("CachedBlob = %d, %v", size, err)
	}
	if err := r.LinkCached(ctx, hub, "docker.io/b", d); err != nil {
		t.Fatal(err)
	}
	r.wantBlob("docker.io/b", d)
	r.wantNoBlob("docker.io/c", d)
}

func testFetch(t *testing.T, r *registry) {
	ctx := context.Background()
	d := digest.FromString("abcdef")
	f, err := r.BeginFetch(ctx, hub, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.BeginFetch(ctx, "quay.io", d); err != nil {
		t.Errorf("the same blob of another upstream: %v", err)
	}
	partial, err := f.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer partial.Close()
	wantMore := func(want string) {
		t.Helper()
		if got, err := io.ReadAll(partial); err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	wantMore("")
	for _, piece := range []string{"abc", "def"} {
		if _, err := f.ReadFrom(strings.NewReader(piece)); err != nil {
			t.Fatal(err)
		}
		wantMore(piece)
	}
	if err := f.Verify(nil); err != nil {
		t.Error(err)
	}
	r.wantNoBlob("docker.io/a", d)
	if err := f.Commit(ctx, hub, []string{"docker.io/a", "docker.io/b"}); err != nil {
		t.Fatal(err)
	}
	r.wantBlob("docker.io/a", d)
	r.wantBlob("docker.io/b", d)
	late, err := f.Open(ctx)
	if err != nil {
		t.Fatalf("Open after Commit: %v", err)
	}
	late.Close()
	if _, err := partial.Seek(0, io.SeekStart); err != nil {
		t.Error(err)
	}
	wantMore("abcdef")
}

func testFetchGoesOn(t *testing.T, r *registry) {
	ctx := context.Background()
	d := digest.FromString("abcdef")
	for i, piece := range []string{"ab", "cd"} {
		f, err := r.BeginFetch(ctx, hub, d)
		if err != nil {
			t.Fatal(err)
		}
		if f.Size() != int64(2*i) {
			t.Errorf("goes on at %d, want %d", f.Size(), 2*i)
		}
		if _, err := f.ReadFrom(strings.NewReader(piece)); err != nil {
			t.Fatal(err)
		}
		wantError(t, "Verify", f.Verify(nil), storage.ErrDigestInvalid)
		if err := f.Suspend(ctx); err != nil {
			t.Fatal(err)
		}
		r.restart()
	}
	r.fetch(hub, "docker.io/a", "abcdef")
	r.wantBlob("docker.io/a", d)
	if f, err := r.BeginFetch(ctx, hub, d); err != nil || f.Size() != 0 {
		t.Errorf("a new fetch has %v, %v", f, err)
	}
}

func testFetchAfterCrash(t *testing.T, r *registry) {
	ctx := context.Background()
	f, err := r.BeginFetch(ctx, hub, digest.FromString("abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	// Its fact is written by now, since writes are in order.
	r.push("a", "x")
	r.restart() // nobody suspended it
	r.fetch(hub, "docker.io/a", "abcdef")
	r.wantBlob("docker.io/a", digest.FromString("abcdef"))
}

func testFetchMismatch(t *testing.T, r *registry) {
	ctx := context.Background()
	d := digest.FromString("abc")
	for _, end := range []func(*storage.Fetch) error{
		func(f *storage.Fetch) error { return f.Discard(ctx) },
		func(f *storage.Fetch) error {
			wantError(t, "Commit", f.Commit(ctx, hub, []string{"docker.io/a"}), storage.ErrDigestInvalid)
			return nil
		},
	} {
		f, err := r.BeginFetch(ctx, hub, d)
		if err != nil {
			t.Fatal(err)
		}
		if f.Size() != 0 {
			t.Errorf("%d bytes are left", f.Size())
		}
		if _, err := f.ReadFrom(strings.NewReader("abd")); err != nil {
			t.Fatal(err)
		}
		wantError(t, "Verify", f.Verify(nil), storage.ErrDigestInvalid)
		if err := end(f); err != nil {
			t.Error(err)
		}
		r.wantNoBlob("docker.io/a", d)
	}
	r.wantNothing()
}

func testFetchAbandon(t *testing.T, r *registry) {
	ctx := context.Background()
	f, err := r.BeginFetch(ctx, hub, digest.FromString("abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	state, err := f.Abandon(ctx)
	if err != nil || state.Size != 3 || len(state.Hash) == 0 {
		t.Errorf("Abandon = %+v, %v", state, err)
	}
	r.wantNothing()
}

func testFetchExpires(t *testing.T, r *registry) {
	ctx := context.Background()
	d := digest.FromString("abcdef")
	under, err := r.BeginFetch(ctx, hub, digest.FromString("under way"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := r.BeginFetch(ctx, hub, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	if err := f.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.ExpireUploads(ctx, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if f, err := r.BeginFetch(ctx, hub, d); err != nil || f.Size() != 0 {
		t.Errorf("an expired fetch goes on: %v, %v", f, err)
	}
	if err := under.Suspend(ctx); err != nil {
		t.Errorf("a fetch under way expired: %v", err)
	}
}

func testDiscardFetches(t *testing.T, r *registry) {
	ctx := context.Background()
	begin := func(content string) *storage.Fetch {
		f, err := r.BeginFetch(ctx, hub, digest.FromString("abcdef"+content))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadFrom(strings.NewReader("abcdef"[f.Size():])); err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, content := range []string{"1", "2"} {
		if err := begin(content).Suspend(ctx); err != nil {
			t.Fatal(err)
		}
	}
	upload, err := r.StartUpload(ctx, "own", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	goesOn := begin("1")
	if err := r.DiscardFetches(ctx); err != nil {
		t.Fatal(err)
	}
	if err := goesOn.Suspend(ctx); err != nil {
		t.Errorf("one that goes on: %v", err)
	}
	for content, want := range map[string]int64{"1": 6, "2": 0} {
		f, err := r.BeginFetch(ctx, hub, digest.FromString("abcdef"+content))
		if err != nil || f.Size() != want {
			t.Errorf("%d bytes are left, %v, want %d", f.Size(), err, want)
		}
	}
	if _, err := r.UploadSize(ctx, "own", upload); err != nil {
		t.Errorf("an upload: %v", err)
	}
}

func testEvict(t *testing.T, r *registry) {
	ctx := context.Background()
	var blobs []digest.Digest
	at := make(map[digest.Digest]time.Time)
	for i := range 5 {
		d := r.fetch(hub, "docker.io/a", fmt.Sprint("blob ", i)) // 6 bytes
		blobs = append(blobs, d)
		at[d] = time.Now().Add(time.Duration(1+i) * time.Hour)
	}
	at[blobs[0]] = time.Now().Add(24 * time.Hour) // the first was pulled last
	if err := r.Pulled(ctx, at); err != nil {
		t.Fatal(err)
	}
	if err := r.MountBlob(ctx, "own", "docker.io/a", blobs[1], nil); err != nil {
		t.Fatal(err)
	}
	pushed := r.push("own", "pushed")
	if n, err := r.CopiedBytes(ctx); err != nil || n != 24 {
		t.Errorf("CopiedBytes = %d, %v, want 24", n, err)
	}
	reading, _, err := r.OpenBlob(ctx, "docker.io/a", blobs[2])
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	if freed, err := r.Evict(ctx, 7, nil); err != nil || freed != 12 {
		t.Errorf("Evict = %d, %v, want 12", freed, err)
	}
	if got, err := io.ReadAll(reading); err != nil || string(got) != "blob 2" {
		t.Errorf("who was reading got %q, %v", got, err)
	}
	for i, d := range blobs {
		if i == 2 || i == 3 {
			r.wantNoBlob("docker.io/a", d)
			continue
		}
		r.wantBlob("docker.io/a", d)
	}
	if freed, err := r.Evict(ctx, 1000, nil); err != nil || freed != 12 {
		t.Errorf("Evict of all = %d, %v, want 12", freed, err)
	}
	r.restart()
	r.wantBlob("own", pushed)
	r.wantBlob("own", blobs[1])
	r.wantBlob("docker.io/a", blobs[1])
	r.wantNoBlob("docker.io/a", blobs[0])
	r.fetch(hub, "docker.io/a", "blob 0")
	r.wantBlob("docker.io/a", blobs[0])
}

func testEvictAgainstPush(t *testing.T, r *registry) {
	ctx := context.Background()
	for i := range 20 {
		content := fmt.Sprint("both ", i)
		d := r.fetch(hub, "docker.io/a", content)
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := r.Evict(ctx, 1000, nil); err != nil {
				t.Error(err)
			}
		})
		both.Go(func() {
			if err := r.PushBlob(ctx, "own", strings.NewReader(content), d); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		r.wantBlob("own", d)
	}
}
