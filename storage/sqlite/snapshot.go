package sqlite

import (
	"context"

	"github.com/eblume/caddy-registry/storage"
)

// Snapshot implements [storage.Snapshotter]: SQLite copies what is committed at one moment.
// Writes go on meanwhile.
func (d *Database) Snapshot(ctx context.Context, file string) error {
	_, err := d.db.ExecContext(ctx, `VACUUM INTO ?`, file)
	return err
}

// Interface guard
var _ storage.Snapshotter = (*Database)(nil)
