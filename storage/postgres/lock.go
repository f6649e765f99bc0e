package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"hash/fnv"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

const (
	// lockPause is how long before a lock is tried again that another process has.
	lockPause = 100 * time.Millisecond
	// lockStoodStill is how long a process may stand still that has a lock, before the server
	// gives it to another.
	lockStoodStill = time.Minute
	// lockPing is how often a process says that it does not.
	lockPing = 15 * time.Second
	// unlockTimeout is how long it may take to give a lock back.
	unlockTimeout = 5 * time.Second
)

// Lock implements [storage.Locker] by an advisory lock of a connection of its own. If that
// breaks, so does the lock: nothing may depend on it but that work is not done twice, or is
// known to be incomplete.
func (d *Database) Lock(ctx context.Context, name string) (unlock func(), err error) {
	hash := fnv.New64a()
	hash.Write([]byte("caddy-registry " + name))
	l := &sessionLock{key: int64(hash.Sum64()), done: make(chan struct{})}
	if l.conn, err = d.db.Conn(ctx); err != nil {
		return nil, explain(err)
	}
	if err := l.get(ctx); err != nil {
		l.close() // also if it has the lock: the answer may have come too late
		return nil, explain(err)
	}
	go l.ping()
	return l.close, nil
}

// sessionLock is held by a connection.
type sessionLock struct {
	conn *sql.Conn
	key  int64
	done chan struct{} // closed when it is given back
}

func (l *sessionLock) get(ctx context.Context) error {
	if _, err := l.conn.ExecContext(ctx, `SELECT set_config('idle_session_timeout', $1, false)`, milliseconds(lockStoodStill)); err != nil {
		return err
	}
	for {
		var got bool
		if err := l.conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, l.key).Scan(&got); got || err != nil {
			return err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ping keeps the server from taking the process for one that stands still.
func (l *sessionLock) ping() {
	ticker := time.NewTicker(lockPing)
	defer ticker.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-ticker.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), lockPing)
		_, err := l.conn.ExecContext(ctx, `SELECT 1`)
		cancel()
		if err != nil {
			return // the connection is broken
		}
	}
}

// close gives the lock back, and ends its connection, with which it goes in any case.
func (l *sessionLock) close() {
	close(l.done)
	ctx, cancel := context.WithTimeout(context.Background(), unlockTimeout)
	defer cancel()
	_, _ = l.conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, l.key)
	_ = l.conn.Raw(func(any) error { return driver.ErrBadConn }) // not for others to use
	_ = l.conn.Close()
}

// Interface guard
var _ storage.Locker = (*Database)(nil)
