package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/batch"
)

// writer runs all writes on one connection.
type writer struct {
	conn       *sql.Conn
	statements *statements
	checkpoint *checkpointer
	batches    *batch.Writer
	noRoom     func() bool // whether the disk is full
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
		noRoom:     noRoom,
	}
	w.batches = batch.NewWriter(w.commit, checkpoint.committed)
	return w, nil
}

func (w *writer) write(f func(storage.Tx) error) error { return w.full(w.batches.Write(f)) }

func (w *writer) close() error {
	w.batches.Close()
	return errors.Join(w.statements.close(), w.checkpoint.close(), w.conn.Close())
}

// commit runs jobs in one transaction.
func (w *writer) commit(jobs []*batch.Job) (err error) {
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
	for _, j := range jobs {
		if _, err := tx.Exec("SAVEPOINT job"); err != nil {
			return err
		}
		if j.Run(tx); j.Err != nil {
			if _, err := tx.Exec("ROLLBACK TO job"); err != nil {
				return fmt.Errorf("the transaction is lost: %w", errors.Join(j.Err, err))
			}
		}
		if _, err := tx.Exec("RELEASE job"); err != nil {
			return err
		}
	}
	_, err = tx.Exec("COMMIT")
	return err
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
