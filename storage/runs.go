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

// RecordRun remembers that work has come to its end just now, and what came of it, which
// is kept as JSON.
func (r *Registry) RecordRun(ctx context.Context, run Run, result any) error {
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
