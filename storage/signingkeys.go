package storage

import (
	"context"
	"time"
)

// SigningKey is a key that signs tokens.
type SigningKey struct {
	ID      string
	Created time.Time
	Sealed  []byte // encrypted by the caller
}

// SigningKeys returns all signing keys, the newest first.
func (a *Accounts) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	rows, err := a.database.Read(ctx).Query(`SELECT id, created, sealed FROM signing_keys ORDER BY created DESC, id`)
	return scanAll(rows, err, func(key *SigningKey) []any { return []any{&key.ID, timeColumn{&key.Created}, &key.Sealed} })
}

// AddSigningKey adds a key unless there is one that was created at unlessSince or later,
// and reports whether it did: of several processes whose keys have grown old, one makes
// the next. That goes on while the registry is being moved, which no such key is.
func (a *Accounts) AddSigningKey(ctx context.Context, key SigningKey, unlessSince time.Time) (added bool, err error) {
	err = ungated(a.database).Write(ctx, func(tx Tx) error {
		added = false
		found, err := exists(tx.QueryRow(`SELECT 1 FROM signing_keys WHERE created >= $1`, unlessSince.Unix()))
		if err != nil || found {
			return err
		}
		added = true
		_, err = tx.Exec(`INSERT INTO signing_keys (id, created, sealed) VALUES ($1, $2, $3)`, key.ID, key.Created.Unix(), key.Sealed)
		return err
	})
	return added && err == nil, err
}

// DeleteSigningKeys removes the keys that were created before a time.
func (a *Accounts) DeleteSigningKeys(ctx context.Context, before time.Time) error {
	return ungated(a.database).Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`DELETE FROM signing_keys WHERE created < $1`, before.Unix())
		return err
	})
}
