package storage

import (
	"context"
	"errors"
)

// ErrMoving means that a registry takes nothing, since it is being moved elsewhere. It is
// [ErrUnavailable] to who need not know more.
var ErrMoving error = movingError{}

type movingError struct{}

func (movingError) Error() string {
	return "the registry is being moved to other storage, and takes nothing until it is served from there"
}

func (movingError) Is(target error) bool { return target == ErrUnavailable }

// gate is a [Database] that can be closed to writes. That it is closed is a fact, which each
// write reads before anything else: so it holds for all processes that share the database,
// and for those that are started later.
type gate struct{ Database }

func (g gate) Write(ctx context.Context, f func(Tx) error) error {
	return g.Database.Write(ctx, func(tx Tx) error {
		if err := checkMoving(tx); err != nil {
			return err
		}
		return f(tx)
	})
}

// ungated returns a database that takes what is no part of what is moved.
func ungated(database Database) Database {
	if g, ok := database.(gate); ok {
		return g.Database
	}
	return database
}

// check returns what a write would be refused with.
func (g gate) check(ctx context.Context) error { return checkMoving(g.Read(ctx)) }

func checkMoving(q Querier) error {
	moving, err := exists(q.QueryRow(`SELECT 1 FROM moving WHERE id = 1`))
	if err == nil && moving {
		err = ErrMoving
	}
	return err
}

// unlessMoving drops ErrMoving, for what is only counted and need not be.
func unlessMoving(err error) error {
	if errors.Is(err, ErrMoving) {
		return nil
	}
	return err
}

// Moving reports whether all writes are refused.
func (r *Registry) Moving(ctx context.Context) (bool, error) {
	err := r.database.check(ctx)
	return errors.Is(err, ErrMoving), unlessMoving(err)
}

// Freeze refuses all writes with ErrMoving from now on, once those that were begun have
// ended, in all processes that share the database, and those to come, until Thaw is called.
// What can be read is what there will be, and no bytes are removed: others may know of them.
func (r *Registry) Freeze(ctx context.Context) error {
	return r.database.Database.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`INSERT INTO moving (id, since) VALUES (1, $1) ON CONFLICT (id) DO NOTHING`, now())
		return err
	})
}

// Thaw has writes be taken again.
func (r *Registry) Thaw(ctx context.Context) error {
	return r.database.Database.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`DELETE FROM moving WHERE id = 1`)
		return err
	})
}
