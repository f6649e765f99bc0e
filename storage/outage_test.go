package storage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

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

// TestWhatIsSentAgainAfterAnOutageCountsOnce of the database, which could not be told of it
// the first time.
func TestWhatIsSentAgainAfterAnOutageCountsOnce(t *testing.T) {
	t.Parallel()
	blobs, own, err := openDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	database := &awayDatabase{Database: own}
	r := storage.New(blobs, database)
	defer r.Close()
	ctx := t.Context()
	send := func(id, content string, start int64) error {
		_, err := r.AppendUpload(ctx, "a", id, storage.Chunk{Body: idleBody{strings.NewReader(content)}, Start: start, Size: -1})
		return err
	}
	for _, told := range []bool{false, true} { // where it begins
		for _, shorter := range []bool{false, true} { // than the first time
			name := fmt.Sprintf("told %v, shorter %v", told, shorter)
			id, err := r.StartUpload(ctx, "a", digest.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			if err := send(id, "abc", -1); err != nil {
				t.Fatal(err)
			}
			start := int64(-1)
			if told {
				start = 3
			}
			database.away.Store(true)
			if err := send(id, "defghi", start); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s: without a database: %v", name, err)
			}
			database.away.Store(false)
			want, again := "abcdefghi", "defghi"
			if shorter {
				want, again = "abcdef", "def"
			}
			if err := send(id, again, start); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if size, err := r.UploadSize(ctx, "a", id); err != nil || size != int64(len(want)) {
				t.Errorf("%s: UploadSize = %d, %v, want %d", name, size, err, len(want))
			}
			if _, err := r.FinishUpload(ctx, "a", id, storage.Chunk{Start: -1, Size: -1}, digest.FromString(want)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestWhatACrashLeftIsGoneOnWithByWhoAsks where the upload stands; who does not sends it again.
func TestWhatACrashLeftIsGoneOnWithByWhoAsks(t *testing.T) {
	t.Parallel()
	for _, asks := range []bool{false, true} {
		blobs, database, err := openDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		r := storage.New(blobs, database)
		defer r.Close()
		ctx := t.Context()
		id, err := r.StartUpload(ctx, "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		// What a process has written that ends before it can tell anybody.
		w, err := blobs.Writer(ctx, id, storage.UploadState{Algorithm: digest.SHA256})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.ReadFrom(strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Suspend(); err != nil {
			t.Fatal(err)
		}
		rest := "abcdef"
		if asks {
			if size, err := r.UploadSize(ctx, "a", id); err != nil || size != 3 {
				t.Fatalf("UploadSize = %d, %v, want 3", size, err)
			}
			rest = "def"
		}
		chunk := storage.Chunk{Body: idleBody{strings.NewReader(rest)}, Start: -1, Size: -1}
		if _, err := r.FinishUpload(ctx, "a", id, chunk, digest.FromString("abcdef")); err != nil {
			t.Errorf("asks %v: %v", asks, err)
		}
	}
}
