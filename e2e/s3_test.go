//go:build e2e

package e2e

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/eblume/caddy-registry/storage"
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
				database, err := sqlite.Open(context.Background(), filepath.Join(dir, "registry.db"), sqlite.Options{})
				if err != nil {
					return nil, nil, errors.Join(err, blobs.Close())
				}
				return blobs, database, nil
			}
		})
	})
}
