package scale

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// Recorder is a database that measures the statements that are run on it.
type Recorder struct {
	storage.Database
	mu         sync.Mutex
	statements map[string]*Statement
}

// NewRecorder returns what measures the statements on a database.
func NewRecorder(database storage.Database) *Recorder {
	return &Recorder{Database: database, statements: make(map[string]*Statement)}
}

// Statement is one that was run, with any arguments.
type Statement struct {
	Text  string // in one line
	Times []time.Duration
	text  string
	args  [][]any // of some runs
	rows  bool    // it may return many, which take time too: it is measured by replay
}

// argsKept is of how many runs of a statement the arguments are kept.
const argsKept = 1000

// Statements returns all that were run, those that took long last.
func (r *Recorder) Statements() []*Statement {
	return slices.SortedFunc(maps.Values(r.statements), func(a, b *Statement) int {
		return int(a.Percentile(99) - b.Percentile(99))
	})
}

// Percentile returns how long a part of the runs took at most.
func (s *Statement) Percentile(percent int) time.Duration {
	if len(s.Times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.Times))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

// begin notes a run, and returns what takes how long it was.
func (r *Recorder) begin(text string, args []any, rows bool) (end func()) {
	began := time.Now()
	return func() {
		took := time.Since(began)
		r.mu.Lock()
		defer r.mu.Unlock()
		s := r.statements[text]
		if s == nil {
			s = &Statement{Text: strings.Join(strings.Fields(text), " "), text: text, rows: rows}
			r.statements[text] = s
		}
		if !rows {
			s.Times = append(s.Times, took)
		}
		if len(s.args) < argsKept {
			s.args = append(s.args, args)
		}
	}
}

// Read implements [storage.Database].
func (r *Recorder) Read(ctx context.Context) storage.Querier { return querier{r, r.Database.Read(ctx)} }

// Write implements [storage.Database].
func (r *Recorder) Write(ctx context.Context, f func(storage.Tx) error) error {
	return r.Database.Write(ctx, func(tx storage.Tx) error { return f(recordedTx{querier{r, tx}, tx}) })
}

type querier struct {
	recorder *Recorder
	querier  storage.Querier
}

func (q querier) Query(text string, args ...any) (*sql.Rows, error) {
	defer q.recorder.begin(text, args, true)()
	return q.querier.Query(text, args...)
}

func (q querier) QueryRow(text string, args ...any) storage.Row {
	return recordedRow{q.querier.QueryRow(text, args...), q.recorder.begin(text, args, false)}
}

// recordedRow is measured until it is there.
type recordedRow struct {
	storage.Row
	end func()
}

func (r recordedRow) Scan(dest ...any) error {
	defer r.end()
	return r.Row.Scan(dest...)
}

type recordedTx struct {
	querier
	tx storage.Tx
}

func (t recordedTx) Exec(text string, args ...any) (sql.Result, error) {
	defer t.recorder.begin(text, args, false)()
	return t.tx.Exec(text, args...)
}

var errUndo = errors.New("it was only tried")

// replay measures the statements that return many rows: each is run again, and read to its
// end. What they change is undone.
func (r *Recorder) replay(ctx context.Context) error {
	for _, s := range r.statements {
		if !s.rows {
			continue
		}
		for _, args := range s.args {
			err := r.Database.Write(ctx, func(tx storage.Tx) error {
				began := time.Now()
				rows, err := tx.Query(s.text, args...)
				if err != nil {
					return err
				}
				for rows.Next() {
				}
				if err := errors.Join(rows.Err(), rows.Close()); err != nil {
					return err
				}
				s.Times = append(s.Times, time.Since(began))
				return errUndo
			})
			if !errors.Is(err, errUndo) {
				return err
			}
		}
	}
	return nil
}

// Plan is how an engine runs a statement.
type Plan struct {
	Statement *Statement
	Lines     []string
	// Scanned are tables that are read from one end to the other.
	Scanned []string
}

// Plans returns how all statements are run. It and Close may be called when all else has
// ended.
func (r *Recorder) Plans(ctx context.Context, engine Engine) ([]Plan, error) {
	var plans []Plan
	for _, s := range r.Statements() {
		if !engine.explains(s.text) {
			continue
		}
		err := r.Database.Write(ctx, func(tx storage.Tx) error {
			p, err := engine.plan(tx, s)
			if err != nil {
				return err
			}
			plans = append(plans, p)
			return errUndo
		})
		if !errors.Is(err, errUndo) {
			return nil, fmt.Errorf("%s: %w", s.Text, err)
		}
	}
	return plans, nil
}
