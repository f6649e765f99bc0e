//go:build e2e

package e2e

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
	"github.com/eblume/caddy-registry/storage/storagetest"
)

// TestS3 has S3 keep all that storagetest asks of a blob store, and of a registry with its
// bytes there.
func TestS3(t *testing.T) {
	s := newS3(t)
	s.start()
	t.Run("blob store", func(t *testing.T) {
		storagetest.TestBlobStore(t, func(t testing.TB) func() (storage.BlobStore, error) {
			bucket, spool := s.newBucket(t), t.TempDir()
			return func() (storage.BlobStore, error) { return s.open(bucket, spool) }
		})
	})
	t.Run("registry", func(t *testing.T) {
		storagetest.TestRegistry(t, func(t testing.TB) storagetest.Open {
			bucket, dir := s.newBucket(t), t.TempDir()
			return func() (storage.BlobStore, storage.Database, error) {
				blobs, err := s.open(bucket, dir)
				if err != nil {
					return nil, nil, err
				}
				return withSQLite(blobs, dir)
			}
		})
	})
}

// withSQLite opens a database beside a blob store.
func withSQLite(blobs storage.BlobStore, dir string) (storage.BlobStore, storage.Database, error) {
	database, err := sqlite.Open(context.Background(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, blobs.Close())
	}
	return blobs, database, nil
}

// TestBackupsOfABucketAreRestoredAnywhere and what is restored is not taken for garbage,
// though its bytes are at other places.
func TestBackupsOfABucketAreRestoredAnywhere(t *testing.T) {
	s := newS3(t)
	s.start()
	open := func(inBucket bool) *storage.Registry {
		t.Helper()
		dir := t.TempDir()
		var blobs storage.BlobStore
		var err error
		if inBucket {
			blobs, err = s.open(s.newBucket(t), dir)
		} else {
			blobs, err = filesystem.Open(t.Context(), dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		blobs, database, err := withSQLite(blobs, dir)
		if err != nil {
			t.Fatal(err)
		}
		r := storage.New(blobs, database)
		t.Cleanup(func() { r.Close() })
		return r
	}
	const content = "{}"
	d := digest.FromString(content)
	put := func(r *storage.Registry) {
		t.Helper()
		if err := r.PushBlob(t.Context(), "team/app", strings.NewReader(content), d); err != nil {
			t.Fatal(err)
		}
	}
	from := open(true)
	put(from)
	m, err := storage.ParseManifest(imagespec.MediaTypeImageManifest, imageOf(nil, []byte(content)), digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := from.PutManifest(t.Context(), "team/app", m, storage.Put{Tags: []string{"v1"}}); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(t.TempDir(), "backup")
	if _, err := backup.Make(t.Context(), from, folder, nil); err != nil {
		t.Fatal(err)
	}
	for where, inBucket := range map[string]bool{"files": false, "another bucket": true} {
		to := open(inBucket)
		if _, err := backup.Restore(t.Context(), to, folder, nil); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		for _, step := range []string{"restored", "pushed once more"} {
			if _, err := to.Collect(t.Context(), storage.CollectOptions{UploadExpiry: time.Hour}); err != nil {
				t.Fatalf("%s, %s: %v", where, step, err)
			}
			blob, _, err := to.OpenBlob(t.Context(), "team/app", d)
			if err != nil {
				t.Fatalf("%s, %s: %v", where, step, err)
			}
			got, err := io.ReadAll(blob)
			blob.Close()
			if err != nil || string(got) != content {
				t.Errorf("%s, %s: %q, %v", where, step, got, err)
			}
			put(to)
		}
	}
}
