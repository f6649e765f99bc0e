//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
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

// givenBody is a request's content, whose rest comes when it is given.
type givenBody struct {
	io.Reader
	rest chan string
}

func (b *givenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != io.EOF {
		return n, err
	}
	rest, ok := <-b.rest
	if !ok {
		return 0, io.EOF
	}
	b.Reader = strings.NewReader(rest)
	return b.Reader.Read(p)
}

func (*givenBody) Interrupt() {}

// TestWhatAnotherProcessWentOnWithStays when a request to the first one ends the upload.
func TestWhatAnotherProcessWentOnWithStays(t *testing.T) {
	s := newS3(t)
	s.start()
	bucket := s.newBucket(t)
	open := func() storage.BlobStore {
		blobs, err := s.open(bucket, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { blobs.Close() })
		return blobs
	}
	_, database, err := withSQLite(open(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { database.Close() })
	first, second := storage.New(open(), database), storage.New(open(), database)
	ctx := t.Context()
	id, err := first.StartUpload(ctx, "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	body := &givenBody{strings.NewReader("ab"), make(chan string)}
	ended := make(chan error)
	go func() {
		_, err := first.AppendUpload(ctx, "a", id, storage.Chunk{Body: body, Start: 0, Size: 3})
		ended <- err
	}()
	body.rest <- "c" // so that it is under way
	if _, err := second.AppendUpload(ctx, "a", id, storage.Chunk{Body: &givenBody{strings.NewReader("abc"), closed()}, Start: 0, Size: 3}); err != nil {
		t.Fatal(err)
	}
	body.rest <- "too much"
	if err := <-ended; !errors.Is(err, storage.ErrSizeInvalid) {
		t.Errorf("the first one ended with %v", err)
	}
	if _, err := second.FinishUpload(ctx, "a", id, storage.Chunk{Start: -1, Size: -1}, digest.FromString("abc")); err != nil {
		t.Error(err)
	}
	if _, err := first.StatBlob(ctx, "a", digest.FromString("abc")); err != nil {
		t.Error(err)
	}
	if left := s.names(t, bucket, "of/tests/uploads/"); len(left) > 0 {
		t.Errorf("left in the bucket: %q", left)
	}
}

func closed() chan string {
	c := make(chan string)
	close(c)
	return c
}

// TestAnUploadIsWhereItWasWhenTheBucketIsBack so that the client may send the same again.
func TestAnUploadIsWhereItWasWhenTheBucketIsBack(t *testing.T) {
	s := newS3(t)
	s.start()
	dir := t.TempDir()
	store, err := s.open(s.newBucket(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	blobs, database, err := withSQLite(store, dir)
	if err != nil {
		t.Fatal(err)
	}
	r := storage.New(blobs, database)
	t.Cleanup(func() { r.Close() })
	ctx := t.Context()
	chunk := func(content string, start int64) storage.Chunk {
		return storage.Chunk{Body: &givenBody{strings.NewReader(content), closed()}, Start: start, Size: -1}
	}
	for name, before := range map[string]string{"of which nothing was there": "", "of which some was there": "abc"} {
		id, err := r.StartUpload(ctx, "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if before != "" {
			if _, err := r.AppendUpload(ctx, "a", id, chunk(before, 0)); err != nil {
				t.Fatal(err)
			}
		}
		rest := "the rest of one " + name
		d := digest.FromString(before + rest)
		s.stop()
		if _, err := r.FinishUpload(ctx, "a", id, chunk(rest, -1), d); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: finished without a bucket: %v", name, err)
		}
		if _, err := r.AppendUpload(ctx, "a", id, chunk(rest, int64(len(before)))); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: gone on with without a bucket: %v", name, err)
		}
		s.start()
		if size, err := r.UploadSize(ctx, "a", id); err != nil || size != int64(len(before)) {
			t.Errorf("%s: it stands at %d, %v", name, size, err)
		}
		if _, err := r.FinishUpload(ctx, "a", id, chunk(rest, -1), d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// awayDatabase is one that cannot be written to for a while.
type awayDatabase struct {
	storage.Database
	away atomic.Bool
}

func (d *awayDatabase) Write(ctx context.Context, f func(storage.Tx) error) error {
	if d.away.Load() {
		return fmt.Errorf("%w: nobody answers", storage.ErrUnavailable)
	}
	return d.Database.Write(ctx, f)
}

// TestAnUploadIsWhereItWasWhenTheDatabaseIsBack on any process, though its bytes had become a
// blob's.
func TestAnUploadIsWhereItWasWhenTheDatabaseIsBack(t *testing.T) {
	s := newS3(t)
	s.start()
	bucket := s.newBucket(t)
	open := func() storage.BlobStore {
		blobs, err := s.open(bucket, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { blobs.Close() })
		return blobs
	}
	_, own, err := withSQLite(open(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	database := &awayDatabase{Database: own}
	first, second := storage.New(open(), database), storage.New(open(), database)
	ctx := t.Context()
	for name, test := range map[string]struct {
		before string
		again  *storage.Registry
	}{
		"all at once, the same":        {"", first},
		"all at once, another":         {"", second},
		"the end of more, the same":    {"abc", first},
		"the end of more, another one": {"abc", second},
	} {
		id, err := first.StartUpload(ctx, "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if test.before != "" {
			if _, err := first.AppendUpload(ctx, "a", id, storage.Chunk{Body: &givenBody{strings.NewReader(test.before), closed()}, Start: 0, Size: -1}); err != nil {
				t.Fatal(err)
			}
		}
		rest := "the rest, " + name
		d := digest.FromString(test.before + rest)
		finish := func(r *storage.Registry) error {
			_, err := r.FinishUpload(ctx, "a", id, storage.Chunk{Body: &givenBody{strings.NewReader(rest), closed()}, Start: -1, Size: -1}, d)
			return err
		}
		database.away.Store(true)
		if err := finish(first); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: finished without a database: %v", name, err)
		}
		database.away.Store(false)
		if err := finish(test.again); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := first.StatBlob(ctx, "a", d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left := s.names(t, bucket, "of/tests/uploads/"); len(left) > 0 {
		t.Errorf("left in the bucket: %q", left)
	}
}
