package backup

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// MigrateOptions are those of [Migrate].
type MigrateOptions struct {
	// SameStore tells that both registries have their bytes in one store.
	SameStore bool
	// Report is told how far it is. It may be nil.
	Report storage.Report
}

// ErrUndecided means that a registry stays frozen, since nobody knows whether all that it has
// was moved: who finds out has it stay, or not.
var ErrUndecided = errors.New("pushes are still refused, since it cannot be told whether all was moved: start a server on the new one and look, or undo the move")

// Migrate fills an empty registry with what another one has, which may be served. While the
// bytes are brought everything goes on; then the other one is frozen, in all processes that
// serve it, so that nothing is acknowledged that the new one lacks. It stays so, unless
// Migrate fails and it was not before. One that was interrupted goes on when it is run again.
// Bytes are verified as they are copied, and facts are counted. Blobs that the other one
// lacks are told, as [Restore] does.
func Migrate(ctx context.Context, from, to *storage.Registry, options MigrateOptions) (Summary, error) {
	if err := to.CheckEmpty(ctx); err != nil {
		return Summary{}, fmt.Errorf("%w; a registry is moved to an empty one only", err)
	}
	for _, r := range []*storage.Registry{from, to} {
		release, err := r.HoldCollection(ctx, options.Report)
		if err != nil {
			return Summary{}, err
		}
		defer release()
	}
	// An empty registry may have been moved away once.
	if err := to.Thaw(ctx); err != nil {
		return Summary{}, err
	}
	b := &bringer{copier: copier{from: from, to: to, report: options.Report}, open: func(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
		return from.OpenBytes(ctx, d)
	}}
	bring := b.bringAll
	if options.SameStore {
		bring = func(context.Context) error { return nil }
	}
	b.again = true
	if err := bring(ctx); err != nil {
		return b.Summary, err
	}
	if err := from.FlushPulls(ctx); err != nil {
		return b.Summary, err
	}
	frozen, err := from.Moving(ctx)
	if err != nil {
		return b.Summary, err
	}
	err = from.Freeze(ctx)
	if err == nil {
		b.again = false
		err = bring(ctx)
	}
	if err == nil {
		err = to.Load(ctx, from, storage.LoadOptions{SameStore: options.SameStore, Lost: b.lost})
	}
	if err == nil {
		return b.Summary, errors.Join(checkStayedFrozen(ctx, from), b.incomplete())
	}
	if !frozen {
		if undone := thaw(context.WithoutCancel(ctx), from, to); undone != nil {
			err = fmt.Errorf("%w: %w (%w)", ErrUndecided, err, undone)
		}
	}
	return b.Summary, err
}

// ErrUndone means that somebody had a registry take writes again before all was moved.
var ErrUndone = errors.New("pushes were taken again while all was being moved, and some may be where it was only: empty the new one, and move again")

// checkStayedFrozen returns ErrUndone unless a registry has refused writes until now. Who
// undoes a move waits for it, but not for one that stood still for long.
func checkStayedFrozen(ctx context.Context, from *storage.Registry) error {
	moving, err := from.Moving(ctx)
	if err == nil && !moving {
		err = ErrUndone
	}
	return err
}

// Stay has a registry take writes again that was moved, or that a move left frozen. It is
// waited for one that is under way.
func Stay(ctx context.Context, r *storage.Registry) error {
	release, err := r.HoldCollection(ctx, nil)
	if err != nil {
		return err
	}
	defer release()
	return r.Thaw(ctx)
}

// thaw has a registry take writes again that could not be moved, unless the other one has its
// facts after all: of a commit the answer may have got lost.
func thaw(ctx context.Context, from, to *storage.Registry) error {
	if err := to.CheckEmpty(ctx); err != nil {
		return err
	}
	return from.Thaw(ctx)
}
