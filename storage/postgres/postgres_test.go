package postgres

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/eblume/caddy-registry/storage"
)

// TestMigrationsAreInPostgresWords as far as can be told without a server; those of e2e
// have one.
func TestMigrationsAreInPostgresWords(t *testing.T) {
	steps := migrations(storage.Migrations())
	files, err := fs.Glob(steps, "*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("no steps: %v", err)
	}
	unordered := regexp.MustCompile(`\bTEXT\b( NOT|,| PRIMARY|;|\n)`)
	for _, file := range files {
		content, err := fs.ReadFile(steps, file)
		if err != nil {
			t.Fatal(err)
		}
		info, err := fs.Stat(steps, file)
		if err != nil || info.Size() != int64(len(content)) {
			t.Errorf("%s: %d bytes are told of %d, %v", file, info.Size(), len(content), err)
		}
		if strings.Contains(string(content), "INTEGER PRIMARY KEY") {
			t.Errorf("%s: a key does not count by itself", file)
		}
		if found := unordered.FindString(string(content)); found != "" {
			t.Errorf("%s: text in the server's own order: %q", file, found)
		}
	}
}

func TestNamesHaveNoPassword(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://me:secret@db.example.com/registry":                   "me@db.example.com:5432/registry",
		"host=db.example.com port=5433 user=me password=secret dbname=x": "me@db.example.com:5433/x",
	} {
		if got, err := Name(url); err != nil || got != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	_, err := Name("postgres://me:secret@db.example.com:none/registry")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a wrong URL: %v", err)
	}
}

func TestOutagesAreToldFromMistakes(t *testing.T) {
	for code, want := range map[string]error{
		"57P01": storage.ErrUnavailable, // it is shut down
		"53300": storage.ErrUnavailable, // too many connections
		"55P03": storage.ErrUnavailable, // somebody holds the lock
		"25P03": storage.ErrUnavailable, // this process stood still
		"08006": storage.ErrUnavailable,
		"53100": storage.ErrFull,
	} {
		if err := explain(fmt.Errorf("query: %w", &pgconn.PgError{Code: code})); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", code, err, want)
		}
	}
	if err := explain(io.ErrUnexpectedEOF); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a connection that broke: %v", err)
	}
	for _, code := range []string{"23505", "42601"} { // a row that is there, a syntax error
		if err := explain(&pgconn.PgError{Code: code}); errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrFull) {
			t.Errorf("%s: %v", code, err)
		}
	}
}
