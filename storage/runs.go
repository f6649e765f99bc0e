package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Run is work that is done now and then.
type Run string

const (
	RunCollect Run = "collect"
	RunVerify  Run = "verify"
)

// ErrDoneElsewhere means that another process did something a while ago.
var ErrDoneElsewhere = errors.New("another server did so a while ago")

// checkInterval returns ErrDoneElsewhere if another process did something that is to be done
// at each interval. Only who keeps others from doing it knows.
func (r *Registry) checkInterval(ctx context.Context, run Run, interval time.Duration) error {
	if interval == 0 || !r.Shared() {
		return nil
	}
	last, err := r.LastRun(ctx, run, nil)
	if err == nil && time.Since(last) < interval*9/10 {
		err = ErrDoneElsewhere
	}
	return err
}

// recordRun remembers that work has come to its end just now, and what came of it, which
// is kept as JSON.
func (r *Registry) recordRun(ctx context.Context, run Run, result any) error {
	encoded, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return r.database.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`
			INSERT INTO runs (name, ended, result) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET ended = excluded.ended, result = excluded.result`, string(run), now(), string(encoded))
		return err
	})
}

// LastRun returns when work last came to its end, the zero time if never, and reads what
// came of it into result unless that is nil.
func (r *Registry) LastRun(ctx context.Context, run Run, result any) (time.Time, error) {
	var ended int64
	var encoded string
	err := r.database.Read(ctx).QueryRow(`SELECT ended, result FROM runs WHERE name = $1`, string(run)).Scan(&ended, &encoded)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err == nil && result != nil {
		if err = json.Unmarshal([]byte(encoded), result); err != nil {
			err = fmt.Errorf("result of the last %s: %w", run, err)
		}
	}
	return time.Unix(ended, 0), err
}
