package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/ncruces/go-sqlite3"

	"github.com/eblume/caddy-registry/storage"
)

// maxBatch bounds how many Writes share one commit, and so how long the first of them
// waits for the last.
const maxBatch = 256

// errClosed is what a Write after Close returns.
var errClosed = errors.New("database is closed")

// writer runs all writes on one connection. While it commits, which is mostly waiting
// for the disk, further writes gather; they make the next batch. So a lone write is
// committed at once and many at a time share the price of one.
type writer struct {
	conn       *sql.Conn
	statements *statements
	checkpoint *checkpointer
	jobs       chan *job
	done       chan struct{}
	noRoom     func() bool // whether the disk is full

	mu     sync.RWMutex // held for writing by close, so that no job is sent after it
	closed bool
}

// job is one call of Write.
type job struct {
	f    func(storage.Tx) error
	err  error
	done chan struct{}
}

func newWriter(ctx context.Context, db *sql.DB, noRoom func() bool) (*writer, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	checkpoint, err := newCheckpointer(ctx, db, conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	w := &writer{
		conn:       conn,
		checkpoint: checkpoint,
		statements: &statements{prepare: conn.PrepareContext},
		jobs:       make(chan *job, maxBatch),
		done:       make(chan struct{}),
		noRoom:     noRoom,
	}
	go w.run()
	return w, nil
}

func (w *writer) write(f func(storage.Tx) error) error {
	j := &job{f: f, done: make(chan struct{})}
	w.mu.RLock()
	if w.closed {
		w.mu.RUnlock()
		return errClosed
	}
	w.jobs <- j
	w.mu.RUnlock()
	<-j.done
	return w.full(j.err)
}

func (w *writer) close() error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.jobs)
	}
	w.mu.Unlock()
	<-w.done
	return errors.Join(w.statements.close(), w.checkpoint.close(), w.conn.Close())
}

func (w *writer) run() {
	defer close(w.done)
	batch := make([]*job, 0, maxBatch)
	for first := range w.jobs {
		batch = append(batch[:0], first)
		for more := true; more && len(batch) < maxBatch; {
			select {
			case j, open := <-w.jobs:
				if open {
					batch = append(batch, j)
				}
				more = open
			default:
				more = false
			}
		}
		if err := w.commit(batch); err != nil {
			for _, j := range batch {
				j.err = errors.Join(j.err, err)
			}
		}
		for _, j := range batch {
			close(j.done)
		}
		w.checkpoint.committed()
	}
}

// commit runs a batch in one transaction. What goes wrong in a job alone is its own
// err; what goes wrong with all of them is returned, and then nothing is written.
func (w *writer) commit(batch []*job) (err error) {
	// No request's context: one that is cancelled must not take the others with it.
	tx := querier{context.Background(), w.statements}
	if _, err := tx.Exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// Some errors, a full disk among them, have rolled back already.
			_, _ = tx.Exec("ROLLBACK")
		}
	}()
	for _, j := range batch {
		if _, err := tx.Exec("SAVEPOINT job"); err != nil {
			return err
		}
		if j.err = run(j.f, tx); j.err != nil {
			if _, err := tx.Exec("ROLLBACK TO job"); err != nil {
				return fmt.Errorf("the transaction is lost: %w", errors.Join(j.err, err))
			}
		}
		if _, err := tx.Exec("RELEASE job"); err != nil {
			return err
		}
	}
	_, err = tx.Exec("COMMIT")
	return err
}

// run returns a panic of f as an error: it is some request's, not the other ones'.
func run(f func(storage.Tx) error, tx storage.Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a write: %v", p)
		}
	}()
	return f(tx)
}

// full marks the error of a full disk. Between a write that finds it so and SQLite's
// answer the cause may get lost, so the disk is asked. A sync that failed is not marked:
// all was written before it, and may be there after a crash.
func (w *writer) full(err error) error {
	if errors.Is(err, sqlite3.FULL) || errors.Is(err, sqlite3.IOERR) && !errors.Is(err, sqlite3.IOERR_FSYNC) && w.noRoom() {
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	}
	return err
}
