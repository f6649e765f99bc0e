package backup

import (
	"context"
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

// Migrate fills an empty registry with what another one has, which may be served. While the
// bytes are brought everything goes on; then the other one takes nothing any more, and only
// serves what it has, so that nothing is acknowledged that the new one lacks. It stays so,
// unless Migrate fails. One that was interrupted goes on when it is run again. Bytes are
// verified as they are copied, and facts are counted. Blobs that the other one lacks are
// told, as [Restore] does.
func Migrate(ctx context.Context, from, to *storage.Registry, options MigrateOptions) (Summary, error) {
	if err := to.CheckEmpty(ctx); err != nil {
		return Summary{}, fmt.Errorf("%w; a registry is moved to an empty one only", err)
	}
	for _, r := range []*storage.Registry{from, to} {
		release, err := r.HoldCollection(ctx)
		if err != nil {
			return Summary{}, err
		}
		defer release()
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
	thaw := from.Freeze()
	b.again = false
	err := bring(ctx)
	if err == nil {
		err = to.Load(ctx, from, storage.LoadOptions{SameStore: options.SameStore, Lost: b.lost})
	}
	if err != nil {
		thaw()
		return b.Summary, err
	}
	return b.Summary, b.incomplete()
}
