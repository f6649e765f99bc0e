package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// APIKey is what is known of an API key, of which only a hash is kept.
type APIKey struct {
	ID     string // a UUID
	Label  string
	Person int64    // the owner; 0: made on the command line or by a job, and Owner and Groups stand in the key
	Owner  string   // the owner's name; if Person is set, as it is now
	Groups []string // likewise
	// Version is that of the configuration of the provider, or of the workload identity,
	// which decided who the owner is; empty: neither did. If Person is set it is the person's.
	Version   string
	Scopes    []string
	Job       string // the workload identity whose token made it, or ""
	Created   time.Time
	Expires   time.Time     // zero: never
	LastUsed  time.Time     // zero: never
	Revoked   time.Time     // zero: never
	Lifetime  time.Duration // that a rotated one gets again
	Successor string        // id of the key it was rotated to, or ""
}

// Ended reports whether a key is revoked or has expired.
func (k *APIKey) Ended(now time.Time) bool {
	return !k.Revoked.IsZero() || !k.Expires.IsZero() && !now.Before(k.Expires)
}

// selectKeys is the beginning of queries for keys, whose rows are scanned by columns.
const selectKeys = `
	SELECT k.id, k.label, coalesce(k.person, 0), coalesce(p.name, k.owner), coalesce(p.groups, k.groups), coalesce(p.version, k.version), k.scopes,
		k.job, k.created, k.expires, k.used, k.revoked, k.lifetime, k.successor
	FROM api_keys k LEFT JOIN people p ON p.id = k.person `

func (k *APIKey) columns() []any {
	return []any{&k.ID, &k.Label, &k.Person, &k.Owner, listColumn{&k.Groups}, &k.Version, listColumn{&k.Scopes},
		&k.Job, timeColumn{&k.Created}, timeColumn{&k.Expires}, timeColumn{&k.LastUsed}, timeColumn{&k.Revoked}, durationColumn{&k.Lifetime}, &k.Successor}
}

// AddKey adds a key. If it has a Person, its Owner and Groups are the person's and not
// looked at, and the person must have a session: ErrSessionUnknown. So a request that was
// under way when the person was ended makes no key that stays.
func (a *Accounts) AddKey(ctx context.Context, key APIKey, hash [32]byte) error {
	return a.database.Write(ctx, func(tx Tx) error {
		if key.Person == 0 {
			return insertKey(tx, key, hash)
		}
		signedIn, err := exists(tx.QueryRow(`SELECT 1 FROM sessions WHERE person = $1 AND expires > $2 LIMIT 1`, key.Person, now()))
		if err != nil {
			return err
		}
		if !signedIn {
			return fmt.Errorf("%w: the person is not signed in any more", ErrSessionUnknown)
		}
		return insertKey(tx, key, hash)
	})
}

func insertKey(tx Tx, key APIKey, hash [32]byte) error {
	if key.Person != 0 {
		key.Owner, key.Groups, key.Version = "", nil, ""
	}
	groups, err := encodeList(key.Groups)
	if err != nil {
		return err
	}
	scopes, err := encodeList(key.Scopes)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`
		INSERT INTO api_keys (id, hash, label, person, owner, groups, scopes, job, version, created, expires, used, revoked, lifetime, successor)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		key.ID, hash[:], key.Label, sql.NullInt64{Int64: key.Person, Valid: key.Person != 0}, key.Owner, groups, scopes, key.Job, key.Version,
		unix(key.Created), unix(key.Expires), unix(key.LastUsed), unix(key.Revoked), int64(key.Lifetime/time.Second), key.Successor)
	return err
}

// KeyByHash returns the key whose hash this is, also if it has ended, or ErrKeyUnknown.
// Its LastUsed is not set. It is shared and must not be changed.
func (a *Accounts) KeyByHash(ctx context.Context, hash [32]byte) (*APIKey, error) {
	return a.findKey(ctx, hash, selectKeys+`WHERE k.hash = $1`)
}

// KeyByID is KeyByHash for those who know the key's id.
func (a *Accounts) KeyByID(ctx context.Context, id string) (*APIKey, error) {
	return a.findKey(ctx, id, selectKeys+`WHERE k.id = $1`)
}

// findKey returns a key that is remembered under by, or that query finds with it.
func (a *Accounts) findKey(ctx context.Context, by any, query string) (*APIKey, error) {
	remembered := a.keys.Load()
	if key := remembered.get(by); key != nil {
		return key, nil
	}
	arg := by
	if hash, ok := by.([32]byte); ok {
		arg = hash[:]
	}
	key, err := scanKey(a.database.Read(ctx).QueryRow(query, arg))
	if err != nil {
		return nil, err
	}
	key.LastUsed = time.Time{}
	if remembered.put(by, key) {
		a.keys.CompareAndSwap(remembered, new(keyGeneration))
	}
	return key, nil
}

// scanKey returns the key of a row, or ErrKeyUnknown.
func scanKey(row Row) (*APIKey, error) {
	key := new(APIKey)
	err := row.Scan(key.columns()...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrKeyUnknown
	}
	if err != nil {
		return nil, err
	}
	return key, nil
}

// Key returns a key with all that is known of it, or ErrKeyUnknown.
func (a *Accounts) Key(ctx context.Context, id string) (*APIKey, error) {
	used := a.unwritten()
	key, err := scanKey(a.database.Read(ctx).QueryRow(selectKeys+`WHERE k.id = $1`, id))
	if err != nil {
		return nil, err
	}
	key.use(used[id])
	return key, nil
}

// KeysOf returns the keys of a person, the newest first.
func (a *Accounts) KeysOf(ctx context.Context, person int64) ([]APIKey, error) {
	return a.listKeys(ctx, selectKeys+`WHERE k.person = $1 ORDER BY k.created DESC, k.id`, person)
}

// Keys returns all keys, the newest first.
func (a *Accounts) Keys(ctx context.Context) ([]APIKey, error) {
	return a.listKeys(ctx, selectKeys+`ORDER BY k.created DESC, k.id`)
}

func (a *Accounts) listKeys(ctx context.Context, query string, args ...any) ([]APIKey, error) {
	used := a.unwritten()
	rows, err := a.database.Read(ctx).Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var keys []APIKey
	for rows.Next() {
		key, err := scanKey(rows)
		if err != nil {
			return nil, err
		}
		key.use(used[key.ID])
		keys = append(keys, *key)
	}
	return keys, rows.Err()
}

// RevokeKey ends a key, and the sessions begun with it. One that is revoked already stays
// as it is; ErrKeyUnknown.
func (a *Accounts) RevokeKey(ctx context.Context, id string) error {
	defer a.forgetKeys()
	return a.database.Write(ctx, func(tx Tx) error {
		known, err := exists(tx.QueryRow(`SELECT 1 FROM api_keys WHERE id = $1`, id))
		if err != nil {
			return err
		}
		if !known {
			return ErrKeyUnknown
		}
		return revokeKey(tx, id)
	})
}

func revokeKey(tx Tx, id string) error {
	if _, err := tx.Exec(`UPDATE api_keys SET revoked = $1 WHERE id = $2 AND revoked = 0`, now(), id); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM sessions WHERE api_key = $1`, id)
	return err
}

// RotateKey adds the successor of a key, which itself works until graceEnds at the
// latest. A successor that it had and that nobody used is revoked: whoever asked for it
// never got the answer. ErrKeyEnded: the key is revoked or has expired.
func (a *Accounts) RotateKey(ctx context.Context, id string, successor APIKey, hash [32]byte, graceEnds time.Time) error {
	used := a.unwritten()
	defer a.forgetKeys()
	return a.database.Write(ctx, func(tx Tx) error {
		old, err := scanKey(tx.QueryRow(selectKeys+`WHERE k.id = $1`, id))
		if err != nil {
			return err
		}
		if old.Ended(time.Now()) {
			return fmt.Errorf("%w: %s", ErrKeyEnded, id)
		}
		if old.Successor != "" && used[old.Successor] == 0 {
			unused, err := exists(tx.QueryRow(`SELECT 1 FROM api_keys WHERE id = $1 AND used = 0`, old.Successor))
			if err != nil {
				return err
			}
			if unused {
				if err := revokeKey(tx, old.Successor); err != nil {
					return err
				}
			}
		}
		if err := insertKey(tx, successor, hash); err != nil {
			return err
		}
		ends := graceEnds
		if !old.Expires.IsZero() && old.Expires.Before(ends) {
			ends = old.Expires
		}
		_, err = tx.Exec(`UPDATE api_keys SET expires = $1, successor = $2 WHERE id = $3`, unix(ends), successor.ID, id)
		return err
	})
}
