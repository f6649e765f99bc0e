package filesystem_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// TestReserveIsReleased shows that a large upload that was suspended, and the blob that
// it became, take no more of the disk than their bytes.
func TestReserveIsReleased(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	id := uuid.NewString()
	content := bytes.Repeat([]byte("0123456789abcdef"), 5<<18)
	half := len(content) / 2

	w := begin(t, s, id, storage.UploadState{})
	if _, err := w.ReadFrom(bytes.NewReader(content[:half])); err != nil {
		t.Fatal(err)
	}
	state, err := w.Suspend()
	if err != nil {
		t.Fatal(err)
	}
	wantAllocated(t, filepath.Join(dir, "uploads", id), half)

	w = begin(t, s, id, state)
	if _, err := w.ReadFrom(bytes.NewReader(content[half:])); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(content)
	if _, err := w.Commit(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	wantAllocated(t, filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded()), len(content))
}

func wantAllocated(t *testing.T, path string, size int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	const unit = 512 // of Blocks, see stat(2)
	allocated := int(info.Sys().(*syscall.Stat_t).Blocks) * unit
	if int(info.Size()) != size || allocated > size+1<<20 {
		t.Errorf("%s has %d bytes, and %d of the disk, want %d", path, info.Size(), allocated, size)
	}
}
