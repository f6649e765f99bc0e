package storage

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Session is a browser that is signed in, as a person or with an API key.
type Session struct {
	Person  *Person // nil if it was begun with an API key
	Key     *APIKey // nil if a person signed in; not to be changed
	Created time.Time
	Expires time.Time
	IDToken []byte // encrypted by the caller; for logout at the provider
}

// BeginKeySession begins a session with an API key, or returns ErrKeyUnknown. It lasts
// no longer than the key does.
func (a *Accounts) BeginKeySession(ctx context.Context, keyID string, hash [32]byte, s Session) error {
	return a.database.Write(ctx, func(tx Tx) error {
		known, err := exists(tx.QueryRow(`SELECT 1 FROM api_keys WHERE id = $1`, keyID))
		if err != nil {
			return err
		}
		if !known {
			return ErrKeyUnknown
		}
		_, err = tx.Exec(`INSERT INTO sessions (hash, api_key, created, expires, id_token) VALUES ($1, $2, $3, $4, $5)`,
			hash[:], keyID, unix(s.Created), unix(s.Expires), s.IDToken)
		return err
	})
}

// Session returns a session with its person or its key. ErrSessionUnknown: there is none,
// or it, or the key that it was begun with, has ended.
func (a *Accounts) Session(ctx context.Context, hash [32]byte, now time.Time) (*Session, error) {
	var s Session
	var person sql.NullInt64
	var key sql.NullString
	err := a.database.Read(ctx).QueryRow(`
		SELECT person, api_key, created, expires, id_token FROM sessions
		WHERE hash = $1 AND expires > $2`, hash[:], now.Unix()).
		Scan(&person, &key, timeColumn{&s.Created}, timeColumn{&s.Expires}, &s.IDToken)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrSessionUnknown
	}
	if err != nil {
		return nil, err
	}
	if !key.Valid {
		if s.Person, err = a.Person(ctx, person.Int64); err != nil {
			return nil, err
		}
		return &s, nil
	}
	s.Key, err = a.KeyByID(ctx, key.String)
	switch {
	case errors.Is(err, ErrKeyUnknown):
		return nil, ErrSessionUnknown // it went with the session since that was read
	case err != nil:
		return nil, err
	case s.Key.Ended(now):
		return nil, ErrSessionUnknown
	}
	return &s, nil
}

// EndSession ends a session, if there is one.
func (a *Accounts) EndSession(ctx context.Context, hash [32]byte) error {
	return a.database.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`DELETE FROM sessions WHERE hash = $1`, hash[:])
		return err
	})
}
