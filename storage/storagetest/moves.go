package storagetest

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

var moveTests = []registryTest{
	{"a frozen registry takes nothing, in other processes and after a restart", testFrozen},
	{"a frozen registry removes no bytes", testFrozenKeepsBytes},
	{"what was brought is kept until facts follow, for a week", testBroughtIsKept},
	{"a blob whose place nobody knows is where it is pushed again", testUnknownPlace},
}

func (r *registry) freeze() {
	r.t.Helper()
	if err := r.Freeze(context.Background()); err != nil {
		r.t.Fatalf("Freeze: %v", err)
	}
}

func testFrozen(t *testing.T, r *registry) {
	ctx := context.Background()
	d := r.push("a", "abc")
	r.freeze()
	push := func(r *storage.Registry) error {
		return r.PushBlob(ctx, "a", strings.NewReader("def"), digest.FromString("def"))
	}
	other := storage.New(r.blobs, r.database)
	for range 2 { // before a restart and after it
		for _, process := range []*storage.Registry{r.Registry, other} {
			wantError(t, "PushBlob", push(process), storage.ErrMoving)
			wantError(t, "StartUpload", second(process.StartUpload(ctx, "a", digest.SHA256)), storage.ErrMoving)
			if moving, err := process.Moving(ctx); err != nil || !moving {
				t.Errorf("Moving = %v, %v", moving, err)
			}
			if err := checkBlob(process, "a", d); err != nil {
				t.Error(err)
			}
		}
		r.restart()
		other = storage.New(r.blobs, r.database)
	}
	if added, err := r.Accounts().AddSigningKey(ctx, storage.SigningKey{ID: "1", Created: time.Now(), Sealed: []byte("x")}, time.Now().Add(-time.Hour)); err != nil || !added {
		t.Errorf("a key that signs tokens: %v, %v", added, err)
	}
	if err := other.Thaw(ctx); err != nil {
		t.Fatalf("Thaw: %v", err)
	}
	if moving, err := r.Moving(ctx); err != nil || moving {
		t.Errorf("Moving = %v, %v", moving, err)
	}
	if err := push(r.Registry); err != nil {
		t.Errorf("PushBlob: %v", err)
	}
}

func testFrozenKeepsBytes(t *testing.T, r *registry) {
	ctx := context.Background()
	// As another registry in the same store would have it.
	d := digest.FromString("a blob of another")
	key, err := r.AddBytes(ctx, d, strings.NewReader("a blob of another"))
	if err != nil {
		t.Fatalf("AddBytes: %v", err)
	}
	r.freeze()
	wantError(t, "SweepBytes", r.SweepBytes(ctx), storage.ErrMoving)
	wantError(t, "Collect", second(r.Collect(ctx, storage.CollectOptions{})), storage.ErrMoving)
	blob, err := r.blobs.Open(ctx, key)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	blob.Close()
}

func testBroughtIsKept(t *testing.T, r *registry) {
	ctx := context.Background()
	const content = "brought"
	d := digest.FromString(content)
	key, err := r.AddBytes(ctx, d, strings.NewReader(content))
	if err != nil {
		t.Fatalf("AddBytes: %v", err)
	}
	if err := r.RecordBrought(ctx, []storage.BlobKey{key}); err != nil {
		t.Fatalf("RecordBrought: %v", err)
	}
	collect := func() {
		t.Helper()
		if _, err := r.Collect(ctx, storage.CollectOptions{UploadExpiry: time.Hour}); err != nil {
			t.Fatalf("Collect: %v", err)
		}
	}
	collect()
	blob, err := r.blobs.Open(ctx, key)
	if err != nil {
		t.Fatalf("after a collection: %v", err)
	}
	got, err := io.ReadAll(blob)
	blob.Close()
	if err != nil || string(got) != content {
		t.Errorf("after a collection: %q, %v", got, err)
	}
	err = r.database.Write(ctx, func(tx storage.Tx) error {
		_, err := tx.Exec(`UPDATE brought SET at = at - $1`, 8*24*60*60)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	collect()
	_, err = r.blobs.Open(ctx, key)
	wantError(t, "Open after a week", err, storage.ErrBlobUnknown)
}

func testUnknownPlace(t *testing.T, r *registry) {
	ctx := context.Background()
	d := r.push("a", "abc")
	var place string
	if err := r.database.Read(ctx).QueryRow(`SELECT place FROM blobs`).Scan(&place); err != nil {
		t.Fatal(err)
	}
	err := r.database.Write(ctx, func(tx storage.Tx) error {
		_, err := tx.Exec(`UPDATE blobs SET place = ''`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if place != "" {
		// The bytes are lost, and only what is pushed next has them.
		if err := r.blobs.Delete(ctx, storage.BlobKey{Digest: d, Place: place}); err != nil {
			t.Fatal(err)
		}
	}
	r.push("a", "abc")
	r.wantBlob("a", d)
}
