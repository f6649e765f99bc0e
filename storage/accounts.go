package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// What is not found among accounts, or cannot be done with them.
var (
	ErrPersonUnknown  = errors.New("person unknown")
	ErrSessionUnknown = errors.New("session unknown or expired")
	ErrKeyUnknown     = errors.New("API key unknown")
	ErrKeyEnded       = errors.New("API key has ended")
	ErrTooOld         = errors.New("person signed in anew since the provider was asked")
)

// keepEnded is how long a key that expired or was revoked is still listed.
const keepEnded = 90 * 24 * time.Hour

// Accounts is who may sign in to a registry, and by what: people, the sessions of their
// browsers, API keys, and the keys that sign tokens. Secrets are kept as hashes, or
// encrypted by the caller. Times are kept in whole seconds.
type Accounts struct {
	database Database
	// keys remembers API keys; nil if the database is shared.
	keys atomic.Pointer[keyGeneration]
	// used has when keys were last used, until that is written: id → *atomic.Int64.
	used sync.Map
}

// NewAccounts returns the accounts that a database has.
func NewAccounts(database Database) *Accounts {
	a := &Accounts{database: database}
	a.forgetKeys()
	return a
}

// ExpireAccounts removes the sessions that have expired, and the keys that ended long
// ago. People stay.
func (a *Accounts) ExpireAccounts(ctx context.Context, now time.Time) error {
	defer a.forgetKeys()
	return unlessMoving(a.database.Write(ctx, func(tx Tx) error {
		if _, err := tx.Exec(`DELETE FROM sessions WHERE expires <= $1`, now.Unix()); err != nil {
			return err
		}
		// Each of the two finds its rows by an index.
		long := now.Add(-keepEnded).Unix()
		if _, err := tx.Exec(`DELETE FROM api_keys WHERE expires > 0 AND expires < $1`, long); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM api_keys WHERE revoked > 0 AND revoked < $1`, long)
		return err
	}))
}

// unix is a time as the facts keep it. The zero time, which stands for never, is 0.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// timeColumn scans what unix gave.
type timeColumn struct{ *time.Time }

// Scan implements [database/sql.Scanner].
func (c timeColumn) Scan(value any) error {
	seconds, ok := value.(int64)
	if !ok {
		return fmt.Errorf("a time is kept as %T", value)
	}
	*c.Time = time.Time{}
	if seconds != 0 {
		*c.Time = time.Unix(seconds, 0)
	}
	return nil
}

// durationColumn scans a duration in seconds.
type durationColumn struct{ *time.Duration }

// Scan implements [database/sql.Scanner].
func (c durationColumn) Scan(value any) error {
	seconds, ok := value.(int64)
	if !ok {
		return fmt.Errorf("a duration is kept as %T", value)
	}
	*c.Duration = time.Duration(seconds) * time.Second
	return nil
}

// encodeList is a list as the facts keep it: a JSON array.
func encodeList(list []string) (string, error) {
	if len(list) == 0 {
		return "[]", nil
	}
	encoded, err := json.Marshal(list)
	return string(encoded), err
}

// listColumn scans what encodeList gave; an empty list is nil.
type listColumn struct{ list *[]string }

// Scan implements [database/sql.Scanner].
func (c listColumn) Scan(value any) error {
	encoded, ok := value.(string)
	if !ok {
		return fmt.Errorf("a list is kept as %T", value)
	}
	*c.list = nil
	if encoded == "[]" {
		return nil
	}
	return json.Unmarshal([]byte(encoded), c.list)
}
