package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/batch"
)

// writeLock is the advisory lock that whoever writes holds, in all processes: what a
// transaction has seen is still so when it commits, without another look.
const writeLock = 0x63726567 // "creg"

// writer runs all writes of this process one after the other, each batch in a transaction.
type writer struct {
	db        *sql.DB
	batches   *batch.Writer
	silentFor time.Duration
}

func newWriter(db *sql.DB) *writer {
	w := &writer{db: db, silentFor: silentFor}
	w.batches = batch.NewWriter(w.commit, func() {})
	return w
}

func (w *writer) close() error {
	w.batches.Close()
	return nil
}

const (
	// attempts is how often a batch is begun that does not come to its commit.
	attempts = 5
	// pause is how long before another, and half a second in all: a connection that broke
	// is replaced at once, and whoever waits longer is told to try again.
	pause = 50 * time.Millisecond
)

// commit runs jobs in one transaction. One that a restart of the server, or another
// process, ended before it was committed is run again.
func (w *writer) commit(jobs []*batch.Job) error {
	for attempt := 1; ; attempt++ {
		again, err := w.try(jobs)
		if !again || attempt == attempts || isLocked(err) {
			return err
		}
		time.Sleep(time.Duration(attempt) * pause)
	}
}

// try runs jobs in a transaction, and reports whether they may be run again.
func (w *writer) try(jobs []*batch.Job) (again bool, err error) {
	// No request's context: one that is cancelled must not take the others with it.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	silence := time.AfterFunc(w.silentFor, cancel)
	defer silence.Stop()
	defer func() {
		if err == nil || ctx.Err() == nil {
			return
		}
		err = fmt.Errorf("%w: the server has not answered for %v", storage.ErrUnavailable, w.silentFor)
		for _, j := range jobs {
			j.Err = nil // it has failed as the others have
		}
		w.closeIdle() // what else is connected may be as silent
	}()
	transaction, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return true, explain(err)
	}
	defer func() {
		if err != nil {
			_ = transaction.Rollback() // it may have ended by itself
		}
	}()
	tx := &tx{ctx: ctx, tx: transaction, silence: silence, silentFor: w.silentFor}
	if _, err := tx.Exec(`SELECT pg_advisory_xact_lock($1)`, writeLock); err != nil {
		return true, err
	}
	for _, j := range jobs {
		tx.unhurried = false
		if _, err := tx.Exec("SAVEPOINT job"); err != nil {
			return true, err
		}
		if j.Run(tx); j.Err != nil {
			if _, err := tx.Exec("ROLLBACK TO SAVEPOINT job"); err != nil {
				return true, fmt.Errorf("the transaction is lost: %w", errors.Join(j.Err, err))
			}
		}
		if _, err := tx.Exec("RELEASE SAVEPOINT job"); err != nil {
			return true, err
		}
	}
	tx.unhurried = false
	tx.begin()
	// Whether a commit whose answer is lost was done nobody knows: it is not done again.
	return false, explain(transaction.Commit())
}

// closeIdle has connections that nobody uses be replaced by new ones.
func (w *writer) closeIdle() {
	w.db.SetMaxIdleConns(0)
	w.db.SetMaxIdleConns(maxConnections)
}

// tx runs statements in a transaction.
type tx struct {
	ctx context.Context
	tx  *sql.Tx

	silence   *time.Timer // ends ctx; nil: nothing does
	silentFor time.Duration
	unhurried bool
}

// begin gives a statement its time.
func (t *tx) begin() {
	if t.silence == nil {
		return
	}
	if t.unhurried {
		t.silence.Stop()
	} else {
		t.silence.Reset(t.silentFor)
	}
}

// TakeTime implements [storage.Hurried].
func (t *tx) TakeTime() {
	t.unhurried = true
	t.begin()
}

func (t *tx) Query(query string, args ...any) (*sql.Rows, error) {
	t.begin()
	rows, err := t.tx.QueryContext(t.ctx, query, args...)
	return rows, explain(err)
}

func (t *tx) QueryRow(query string, args ...any) storage.Row {
	t.begin()
	return row{t.tx.QueryRowContext(t.ctx, query, args...)}
}

func (t *tx) Exec(query string, args ...any) (sql.Result, error) {
	t.begin()
	result, err := t.tx.ExecContext(t.ctx, query, args...)
	return result, explain(err)
}

// Interface guards
var (
	_ storage.Tx      = (*tx)(nil)
	_ storage.Hurried = (*tx)(nil)
)
