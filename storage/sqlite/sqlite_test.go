package sqlite_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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

func open(t *testing.T, path string) *sqlite.Database {
	t.Helper()
	d, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	d := open(t, path)
	if second, err := sqlite.Open(context.Background(), path, sqlite.Options{}); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("a second Open = %v, %v, want %v", second, err, storage.ErrInUse)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// TestMigrations brings an empty file, and one that is not there, to the schema of today.
func TestMigrations(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.db")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, filepath.Join(dir, "absent.db")} {
		for range 2 { // the second time there is nothing to do
			d := open(t, path)
			rows, err := d.Read(context.Background()).Query(`SELECT name FROM sqlite_master WHERE type = 'table'`)
			if err != nil {
				t.Fatal(err)
			}
			var tables []string
			for rows.Next() {
				var name string
				if err := rows.Scan(&name); err != nil {
					t.Fatal(err)
				}
				tables = append(tables, name)
			}
			rows.Close()
			for _, table := range []string{"repositories", "blobs", "repository_blobs", "manifests", "manifest_references", "tags", "uploads"} {
				if !slices.Contains(tables, table) {
					t.Errorf("%s has no table %s", path, table)
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSettings shows that connections are those that promise durability.
func TestSettings(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "registry.db"))
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "synchronous": "2", "fullfsync": "1", "checkpoint_fullfsync": "1", "foreign_keys": "1",
	} {
		var read string
		if err := d.Read(context.Background()).QueryRow("PRAGMA " + pragma).Scan(&read); err != nil || read != want {
			t.Errorf("a reader's %s is %q, %v, want %q", pragma, read, err, want)
		}
		err := d.Write(context.Background(), func(tx storage.Tx) error {
			var written string
			if err := tx.QueryRow("PRAGMA " + pragma).Scan(&written); err != nil || written != want {
				t.Errorf("the writer's %s is %q, %v, want %q", pragma, written, err, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestOtherFile(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte("this is a text of some length, and no database at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{text, dir, filepath.Join(dir, "absent", "registry.db")} {
		d, err := sqlite.Open(context.Background(), path, sqlite.Options{})
		if err == nil {
			d.Close()
			t.Errorf("%s was opened", path)
		}
	}
	if content, err := os.ReadFile(text); err != nil || string(content) != "this is a text of some length, and no database at all" {
		t.Errorf("the text was changed: %q, %v", content, err)
	}
}

// TestPath opens files whose names mean something in a URL.
func TestPath(t *testing.T) {
	for _, name := range []string{"a b.db", "a?b.db", "a%20b.db", "a#b.db", "a&mode=ro.db", "\u00e4.db"} {
		if runtime.GOOS == "windows" && strings.Contains(name, "?") {
			continue // which no file there can be called
		}
		path := filepath.Join(t.TempDir(), name)
		if err := open(t, path).Close(); err != nil {
			t.Error(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", path, err)
		}
	}
}
