package filesystem_test

import (
	"context"
	"testing"

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
