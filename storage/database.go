package storage

import (
	"context"
	"database/sql"
	"embed"
	"io/fs"
)

// Database runs SQL over the registry's schema. The statements are the same for every
// engine: standard SQL with $1, $2, … in the order of their first use.
type Database interface {
	// Read returns a querier outside any transaction.
	Read(ctx context.Context) Querier
	// Write runs f in a transaction and returns nil once that is durable. An error of f
	// undoes what f did and is returned as it is. f may be run again after a conflict, so
	// it must not change anything else. The engine decides how many Writes share one
	// commit.
	Write(ctx context.Context, f func(Tx) error) error
	// Shared tells whether other processes may write to the database, so that nothing
	// that can change may be remembered from it.
	Shared() bool
	// Close ends the database. Writes that wait are finished first.
	Close() error
}

// Locker is a [Database] that processes share, and that has one of them at a time do what
// only one is to do.
type Locker interface {
	// Lock waits for a lock. It is released by unlock, or when the process ends.
	Lock(ctx context.Context, name string) (unlock func(), err error)
}

// Querier reads.
type Querier interface {
	Query(query string, args ...any) (*sql.Rows, error)
	QueryRow(query string, args ...any) Row
}

// Row is what a query found: its first row, or [sql.ErrNoRows].
type Row interface{ Scan(dest ...any) error }

// Tx reads and writes within a transaction.
type Tx interface {
	Querier
	Exec(query string, args ...any) (sql.Result, error)
}

// Hurried is a [Tx] that is undone when a statement takes long, since it may never end.
type Hurried interface {
	// TakeTime has it wait, as long as it takes, until it ends or is committed.
	TakeTime()
}

// takeTime is called by a write of which a statement may read or change much.
func takeTime(tx Tx) {
	if hurried, ok := tx.(Hurried); ok {
		hurried.TakeTime()
	}
}

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema's steps, for pressly/goose, in SQLite's words. Other
// engines have their own for "INTEGER PRIMARY KEY", a key that counts by itself.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}
