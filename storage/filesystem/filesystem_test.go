package filesystem_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.TestBlobStore(t, func(t testing.TB) func() (storage.BlobStore, error) {
		dir := t.TempDir()
		return func() (storage.BlobStore, error) { return filesystem.Open(context.Background(), dir) }
	})
}

func open(t *testing.T, dir string) *filesystem.Store {
	t.Helper()
	s, err := filesystem.Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func begin(t *testing.T, s *filesystem.Store, id string, state storage.UploadState) storage.BlobWriter {
	t.Helper()
	state.Algorithm = digest.SHA256
	w, err := s.Writer(context.Background(), id, state)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestInUse(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "if need be")
	s := open(t, dir)
	if second, err := filesystem.Open(context.Background(), dir); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("a second Open = %v, %v, want %v", second, err, storage.ErrInUse)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestFolderIsNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := filesystem.Open(context.Background(), file); err == nil {
		s.Close()
		t.Error("a file was opened as a store")
	}
}

// TestPaths shows where the bytes are, which people back up and other tools read.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, d := range []digest.Digest{digest.SHA256.FromString("abc"), digest.SHA512.FromString("abc")} {
		id := uuid.NewString()
		w := begin(t, s, id, storage.UploadState{})
		if _, err := w.ReadFrom(strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(filepath.Join(dir, "uploads", id)); err != nil || string(content) != "abc" {
			t.Errorf("the upload has %q, %v", content, err)
		}
		if _, err := w.Commit(context.Background(), d); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
		if content, err := os.ReadFile(path); err != nil || string(content) != "abc" {
			t.Errorf("the blob has %q, %v", content, err)
		}
	}
}

// TestOpenIsFile shows that a blob can be sent by the kernel.
func TestOpenIsFile(t *testing.T) {
	s := open(t, t.TempDir())
	w := begin(t, s, uuid.NewString(), storage.UploadState{})
	if _, err := w.Commit(context.Background(), digest.FromString("")); err != nil {
		t.Fatal(err)
	}
	blob, err := s.Open(context.Background(), storage.BlobKey{Digest: digest.FromString("")})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if _, ok := blob.(*os.File); !ok {
		t.Errorf("Open returns a %T", blob)
	}
}

// TestStateAhead goes on with an upload of which the facts know more than the disk kept.
func TestStateAhead(t *testing.T) {
	for _, left := range []int64{0, 1, 4, 5} {
		dir := t.TempDir()
		s := open(t, dir)
		id := uuid.NewString()
		w := begin(t, s, id, storage.UploadState{})
		if _, err := w.ReadFrom(strings.NewReader("abcde")); err != nil {
			t.Fatal(err)
		}
		state, err := w.Suspend()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, "uploads", id), left); err != nil {
			t.Fatal(err)
		}
		w = begin(t, s, id, state)
		if w.Size() != left {
			t.Errorf("%d bytes are left, Size = %d", left, w.Size())
		}
		if _, err := w.ReadFrom(strings.NewReader("abcdef"[w.Size():])); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(context.Background(), digest.FromString("abcdef")); err != nil {
			t.Errorf("Commit with %d bytes left: %v", left, err)
		}
	}
}

// TestBrokenState goes on with an upload whose state is not one of a hash.
func TestBrokenState(t *testing.T) {
	s := open(t, t.TempDir())
	id := uuid.NewString()
	w := begin(t, s, id, storage.UploadState{})
	if _, err := w.ReadFrom(strings.NewReader("abc")); err != nil {
		t.Fatal(err)
	}
	state, err := w.Suspend()
	if err != nil {
		t.Fatal(err)
	}
	for _, hash := range [][]byte{nil, {}, []byte("no hash"), state.Hash[:len(state.Hash)-1]} {
		broken := storage.UploadState{Algorithm: digest.SHA256, Size: 3, Hash: hash}
		if _, err := s.Writer(context.Background(), id, broken); err == nil {
			t.Errorf("an upload goes on from the hash %q", hash)
		}
	}
	if _, err := begin(t, s, id, state).Commit(context.Background(), digest.FromString("abc")); err != nil {
		t.Error(err)
	}
}
