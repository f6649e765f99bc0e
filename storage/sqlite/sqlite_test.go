package sqlite_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/sqlite"
	"github.com/eblume/caddy-registry/storage/storagetest"
)

func TestDatabase(t *testing.T) {
	storagetest.TestDatabase(t, func(t testing.TB) func() (storage.Database, error) {
		path := filepath.Join(t.TempDir(), "registry.db")
		return func() (storage.Database, error) {
			return sqlite.Open(context.Background(), path, sqlite.Options{})
		}
	})
}
