// Package sqlite keeps a registry's facts in one SQLite file, in write-ahead-log mode
// with synchronous=FULL: what a Write returned nil for survives a loss of power.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/pressly/goose/v3"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/schema"
)

// readers is how many connections read at once, beside those of the writer.
const readers = 8

// Database is a [storage.Database] in a file. One process at a time may have it open.
type Database struct {
	db     *sql.DB // for reading
	reads  *statements
	writer *writer
	unlock func() error
}

// Options are those of [Open]; the zero value is for use.
type Options struct {
	// VFS names the virtual file system that SQLite works on, for tests, which then own
	// the file themselves.
	VFS string
}

// Open returns the database in the file at path, which is made, or brought to the
// schema of today, if need be. [storage.ErrInUse]: another process has it.
func Open(ctx context.Context, path string, options Options) (_ *Database, err error) {
	query := url.Values{}
	unlock := func() error { return nil }
	if options.VFS != "" {
		query.Set("vfs", options.VFS)
	} else if unlock, err = storage.Lock(ctx, path+".lock"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unlock())
		}
	}()
	if options.VFS == "" {
		if err := reserve(path); err != nil {
			return nil, err
		}
	}
	dsn := (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}).String()
	db, err := driver.Open(dsn, configure)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			db.Close()
		}
	}()
	db.SetMaxOpenConns(readers + 2) // and the writer's two
	db.SetMaxIdleConns(readers + 2)
	if err := migrate(ctx, db); err != nil {
		return nil, fmt.Errorf("bringing %s to the schema of today: %w", path, err)
	}
	w, err := newWriter(ctx, db, func() bool { return noRoom(filepath.Dir(path)) })
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	if options.VFS == "" {
		if err := restrict(path); err != nil {
			return nil, err
		}
	}
	return &Database{db: db, reads: &statements{prepare: db.PrepareContext}, writer: w, unlock: unlock}, nil
}

// restrict keeps others from the files that SQLite has beside the database while it is open.
func restrict(path string) error {
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Chmod(path+suffix, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// reserve makes the file if there is none, for its owner alone: SQLite would let everybody
// read it who may enter the folder.
func reserve(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// noRoom reports whether a page more finds no room in a folder.
func noRoom(folder string) bool {
	f, err := os.CreateTemp(folder, "room")
	if err != nil {
		return storage.IsFull(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = f.Write(make([]byte, 64<<10))
	return storage.IsFull(err)
}

// configure is run for each new connection. The journal mode stays in the file, the
// rest does not. fullfsync is what makes macOS flush its disk's cache.
func configure(c *sqlite3.Conn) error {
	return c.Exec(`
		PRAGMA busy_timeout = 10000;
		PRAGMA journal_mode = WAL;
		PRAGMA synchronous = FULL;
		PRAGMA fullfsync = ON;
		PRAGMA checkpoint_fullfsync = ON;
		PRAGMA foreign_keys = ON;
		PRAGMA cache_size = -4000`)
}

func migrate(ctx context.Context, db *sql.DB) error {
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, storage.Migrations())
	if err != nil {
		return err
	}
	return schema.Up(ctx, provider)
}

// Read implements [storage.Database].
func (d *Database) Read(ctx context.Context) storage.Querier { return querier{ctx, d.reads} }

// Write implements [storage.Database]. Writes that come while others are being
// committed share the next commit.
func (d *Database) Write(ctx context.Context, f func(storage.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return d.writer.write(f)
}

// Shared implements [storage.Database]: one process owns the file.
func (d *Database) Shared() bool { return false }

// Close implements [storage.Database].
func (d *Database) Close() error {
	return errors.Join(d.writer.close(), d.reads.close(), d.db.Close(), d.unlock())
}

// statements keeps the prepared form of each statement, of which there are as many as
// stand in package storage.
type statements struct {
	prepare func(context.Context, string) (*sql.Stmt, error)
	byQuery sync.Map // string → *sql.Stmt
}

func (s *statements) get(query string) (*sql.Stmt, error) {
	if stmt, ok := s.byQuery.Load(query); ok {
		return stmt.(*sql.Stmt), nil
	}
	stmt, err := s.prepare(context.Background(), query)
	if err != nil {
		return nil, err
	}
	if other, loaded := s.byQuery.LoadOrStore(query, stmt); loaded {
		stmt.Close()
		return other.(*sql.Stmt), nil
	}
	return stmt, nil
}

func (s *statements) close() error {
	var errs []error
	s.byQuery.Range(func(_, stmt any) bool {
		errs = append(errs, stmt.(*sql.Stmt).Close())
		return true
	})
	return errors.Join(errs...)
}

// querier runs prepared statements.
type querier struct {
	ctx        context.Context
	statements *statements
}

func (q querier) Query(query string, args ...any) (*sql.Rows, error) {
	stmt, err := q.statements.get(query)
	if err != nil {
		return nil, err
	}
	rows, err := stmt.QueryContext(q.ctx, args...)
	return rows, q.explain(err)
}

func (q querier) QueryRow(query string, args ...any) storage.Row {
	stmt, err := q.statements.get(query)
	if err != nil {
		return failedRow{err}
	}
	return row{stmt.QueryRowContext(q.ctx, args...), q}
}

// explain returns the error of a context that ended: SQLite only says that it was
// interrupted.
func (q querier) explain(err error) error {
	if errors.Is(err, sqlite3.INTERRUPT) && q.ctx.Err() != nil {
		return q.ctx.Err()
	}
	return err
}

// row is what a query found.
type row struct {
	*sql.Row
	querier querier
}

func (r row) Scan(dest ...any) error { return r.querier.explain(r.Row.Scan(dest...)) }

// failedRow is the row of a statement that could not be prepared.
type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }

func (q querier) Exec(query string, args ...any) (sql.Result, error) {
	stmt, err := q.statements.get(query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(q.ctx, args...)
}

// Interface guards
var (
	_ storage.Database = (*Database)(nil)
	_ storage.Tx       = querier{}
)
