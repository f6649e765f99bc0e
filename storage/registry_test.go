package storage_test

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"testing"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
	"github.com/eblume/caddy-registry/storage/storagetest"
)

func init() {
	flag.DurationVar(&storagetest.Collecting, "collecting", 0, "how long content is pushed, deleted and collected at once; 0: a moment")
}

// openDir opens the storage that a registry has by default, in one folder.
func openDir(dir string) (storage.BlobStore, storage.Database, error) {
	blobs, err := filesystem.Open(context.Background(), dir)
	if err != nil {
		return nil, nil, err
	}
	database, err := sqlite.Open(context.Background(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		return nil, nil, errors.Join(err, blobs.Close())
	}
	return blobs, database, nil
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	storagetest.TestRegistry(t, func(t testing.TB) storagetest.Open {
		dir := t.TempDir()
		return func() (storage.BlobStore, storage.Database, error) { return openDir(dir) }
	})
}

// TestWritesMayBeRunAgain is TestRegistry on a database that runs each write once for
// nothing, as one does whose transaction was in another's way.
func TestWritesMayBeRunAgain(t *testing.T) {
	t.Parallel()
	storagetest.TestRegistry(t, func(t testing.TB) storagetest.Open {
		dir := t.TempDir()
		return func() (storage.BlobStore, storage.Database, error) {
			blobs, database, err := openDir(dir)
			return blobs, again{database}, err
		}
	})
}

type again struct{ storage.Database }

func (a again) Write(ctx context.Context, f func(storage.Tx) error) error {
	return a.Database.Write(ctx, func(tx storage.Tx) error {
		if _, err := tx.Exec(`SAVEPOINT again`); err != nil {
			return err
		}
		_ = f(tx) // what it says is of no use: it is undone
		if _, err := tx.Exec(`ROLLBACK TO again`); err != nil {
			return err
		}
		return f(tx)
	})
}
