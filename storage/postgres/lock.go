package postgres

import (
	"context"
	"hash/fnv"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// lockPause is how long before a lock is tried again that another process has.
const lockPause = 100 * time.Millisecond

// Lock implements [storage.Locker] by an advisory lock of a connection. If that breaks, so
// does the lock: nothing may depend on it but that work is not done twice.
func (d *Database) Lock(ctx context.Context, name string) (unlock func(), err error) {
	hash := fnv.New64a()
	hash.Write([]byte("caddy-registry " + name))
	key := int64(hash.Sum64())
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return nil, explain(err)
	}
	for {
		var got bool
		err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, key).Scan(&got)
		if err == nil && !got {
			select {
			case <-time.After(lockPause):
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			_ = conn.Close() // the error of the query says more
			return nil, explain(err)
		}
		return func() {
			// With the connection the lock goes, too.
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, key)
			_ = conn.Close()
		}, nil
	}
}

// Interface guard
var _ storage.Locker = (*Database)(nil)
