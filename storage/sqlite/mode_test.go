package sqlite_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/eblume/caddy-registry/storage/sqlite"
)

// TestOthersCannotReadTheDatabase also where they may enter its folder.
func TestOthersCannotReadTheDatabase(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // where modes say nothing
	}
	path := filepath.Join(t.TempDir(), "registry.db")
	db, err := sqlite.Open(t.Context(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(name)
		if err != nil {
			if os.IsNotExist(err) && name != path {
				continue // not all systems have these files
			}
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %o", name, mode)
		}
	}
}
