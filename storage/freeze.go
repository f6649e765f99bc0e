package storage

import (
	"context"
	"errors"
	"sync"
)

// ErrMoving means that a registry takes nothing, since it is being moved elsewhere. It is
// [ErrUnavailable] to who need not know more.
var ErrMoving error = movingError{}

type movingError struct{}

func (movingError) Error() string {
	return "the registry is being moved to other storage, and takes nothing until it is served from there"
}

func (movingError) Is(target error) bool { return target == ErrUnavailable }

// Moving reports whether all writes are refused.
func (r *Registry) Moving() bool { return r.database.check() != nil }

// gate is a [Database] that can be closed to writes.
type gate struct {
	Database
	mu     sync.RWMutex // held by writes for reading
	closed bool
}

func (g *gate) Write(ctx context.Context, f func(Tx) error) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return ErrMoving
	}
	return g.Database.Write(ctx, f)
}

// check returns what a write would be refused with.
func (g *gate) check() error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return ErrMoving
	}
	return nil
}

func (g *gate) set(closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
}

// unlessMoving drops ErrMoving, for what is only counted and need not be.
func unlessMoving(err error) error {
	if errors.Is(err, ErrMoving) {
		return nil
	}
	return err
}

// Freeze refuses all writes with ErrMoving from now on, once those that were begun have
// ended, until thaw is called. What can be read is what there will be, and no bytes are
// removed: others may know of them. It does not keep other processes from writing, if they
// share the database.
func (r *Registry) Freeze() (thaw func()) {
	r.database.set(true)
	return func() { r.database.set(false) }
}
