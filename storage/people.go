package storage

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// Person is somebody as an identity provider knows them.
type Person struct {
	ID              int64
	Issuer, Subject string // these two say who it is, whatever the name
	ClientID        string // this registry's name at the issuer, by which the person signed in last
	Version         string // of the provider's configuration that made name and groups of what it said
	Name            string // as policies and logs know the person
	Groups          []string
	RefreshToken    []byte    // encrypted by the caller; nil: there is none
	Refreshed       time.Time // when the provider last confirmed name and groups
	Asked           time.Time // when it was last asked to
}

const personColumns = `id, issuer, subject, client_id, version, name, groups, refresh_token, refreshed, asked`

func (p *Person) columns() []any {
	return []any{&p.ID, &p.Issuer, &p.Subject, &p.ClientID, &p.Version, &p.Name, listColumn{&p.Groups}, &p.RefreshToken, timeColumn{&p.Refreshed}, timeColumn{&p.Asked}}
}

// SignIn begins a session of a person whom a provider just told of, with what s has of
// it besides who it is. What was known of the person is replaced by p, a refresh token
// also by none. Asked becomes another time than it was, also within a second, by which an
// answer of the provider about before is known to be too old. The person who signed in is returned.
func (a *Accounts) SignIn(ctx context.Context, p Person, hash [32]byte, s Session) (*Person, error) {
	groups, err := encodeList(p.Groups)
	if err != nil {
		return nil, err
	}
	var signed *Person
	var changed bool
	err = a.database.Write(ctx, func(tx Tx) (err error) {
		changed, err = exists(tx.QueryRow(`
			SELECT 1 FROM people WHERE issuer = $1 AND subject = $2 AND (name <> $3 OR groups <> $4 OR version <> $5)`,
			p.Issuer, p.Subject, p.Name, groups, p.Version))
		if err != nil {
			return err
		}
		signed = new(Person)
		err = tx.QueryRow(`
			INSERT INTO people (issuer, subject, client_id, version, name, groups, refresh_token, refreshed, asked)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
			ON CONFLICT (issuer, subject) DO UPDATE SET client_id = excluded.client_id, version = excluded.version, name = excluded.name, groups = excluded.groups,
				refresh_token = excluded.refresh_token, refreshed = excluded.refreshed,
				asked = CASE WHEN people.asked BETWEEN excluded.asked AND excluded.asked + 60 THEN people.asked + 1 ELSE excluded.asked END
			RETURNING `+personColumns,
			p.Issuer, p.Subject, p.ClientID, p.Version, p.Name, groups, p.RefreshToken, now()).Scan(signed.columns()...)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO sessions (hash, person, created, expires, id_token) VALUES ($1, $2, $3, $4, $5)`,
			hash[:], signed.ID, unix(s.Created), unix(s.Expires), s.IDToken)
		return err
	})
	if changed {
		a.forgetKeys()
	}
	if err != nil {
		return nil, err
	}
	return signed, nil
}

// Person returns a person, or ErrPersonUnknown.
func (a *Accounts) Person(ctx context.Context, id int64) (*Person, error) {
	p := new(Person)
	err := a.database.Read(ctx).QueryRow(`SELECT `+personColumns+` FROM people WHERE id = $1`, id).Scan(p.columns()...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrPersonUnknown
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// PeopleToRefresh returns up to limit people who signed in by a version of a provider's
// configuration and a client ID, whom it can be asked about and was not since askedBefore, the longest ago first. Those who have neither a session nor
// an API key any more are left alone.
func (a *Accounts) PeopleToRefresh(ctx context.Context, version, clientID string, askedBefore, now time.Time, limit int) ([]Person, error) {
	rows, err := a.database.Read(ctx).Query(`
		SELECT `+personColumns+` FROM people
		WHERE version = $1 AND client_id = $2 AND asked < $3 AND refresh_token IS NOT NULL AND (
			EXISTS (SELECT 1 FROM sessions WHERE person = people.id AND expires > $4)
			OR EXISTS (SELECT 1 FROM api_keys WHERE person = people.id AND revoked = 0 AND (expires = 0 OR expires > $4)))
		ORDER BY asked LIMIT $5`, version, clientID, unix(askedBefore), now.Unix(), limit)
	return scanAll(rows, err, (*Person).columns)
}

// BeginRefresh records that a provider is asked about p now, and reports whether it is
// to be: not if somebody else began, or the person signed in anew or was ended, since p
// was read.
func (a *Accounts) BeginRefresh(ctx context.Context, p Person, now time.Time) (began bool, err error) {
	if now.Unix() <= unix(p.Asked) {
		return false, nil // what another process wrote this second would look the same
	}
	err = a.database.Write(ctx, func(tx Tx) (err error) {
		began, err = affected(tx.Exec(`UPDATE people SET asked = $1 WHERE id = $2 AND asked = $3 AND refresh_token IS NOT NULL`,
			now.Unix(), p.ID, unix(p.Asked)))
		return err
	})
	return began && err == nil, err
}

// checkAsked returns nil if a person was last asked about at a time, or it is the zero time,
// which stands for any; else ErrTooOld or ErrPersonUnknown.
func checkAsked(tx Tx, id int64, asked time.Time) error {
	var last time.Time
	err := tx.QueryRow(`SELECT asked FROM people WHERE id = $1`, id).Scan(timeColumn{&last})
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return ErrPersonUnknown
	case err == nil && !asked.IsZero() && unix(last) != unix(asked):
		return ErrTooOld
	}
	return err
}

// change does something to a person unless an answer is too old for it; see checkAsked.
func (a *Accounts) change(ctx context.Context, id int64, asked time.Time, do func(tx Tx) error) error {
	return a.database.Write(ctx, func(tx Tx) error {
		if err := checkAsked(tx, id, asked); err != nil {
			return err
		}
		return do(tx)
	})
}

// FinishRefresh records what a provider said of a person, whom it was asked about at the
// time that BeginRefresh recorded; zero: whenever that was. Without a new refresh token
// the old one stays. An answer is ErrTooOld, and changes nothing, if the person has signed
// in since.
func (a *Accounts) FinishRefresh(ctx context.Context, id int64, asked time.Time, name string, groups []string, refreshToken []byte) error {
	encoded, err := encodeList(groups)
	if err != nil {
		return err
	}
	var changed bool
	err = a.change(ctx, id, asked, func(tx Tx) (err error) {
		changed, err = exists(tx.QueryRow(`SELECT 1 FROM people WHERE id = $1 AND (name <> $2 OR groups <> $3)`, id, name, encoded))
		if err != nil {
			return err
		}
		_, err = tx.Exec(`
			UPDATE people SET name = $1, groups = $2, refreshed = $3, refresh_token = coalesce($4, refresh_token)
			WHERE id = $5 AND refresh_token IS NOT NULL`, name, encoded, now(), refreshToken, id)
		return err
	})
	if changed {
		a.forgetKeys()
	}
	return err
}

// ReplaceRefreshToken keeps a refresh token that a provider gave in place of another, though
// the rest of its answer is of no use. Times are those of FinishRefresh.
func (a *Accounts) ReplaceRefreshToken(ctx context.Context, id int64, asked time.Time, refreshToken []byte) error {
	return a.change(ctx, id, asked, func(tx Tx) error {
		_, err := tx.Exec(`UPDATE people SET refresh_token = $1 WHERE id = $2 AND refresh_token IS NOT NULL`, refreshToken, id)
		return err
	})
}

// ForgetRefresh removes a person's refresh token, which cannot be decrypted any more. All
// else stays: name and groups are from then on those of the last sign-in. Times are those
// of FinishRefresh.
func (a *Accounts) ForgetRefresh(ctx context.Context, id int64, asked time.Time) error {
	return a.change(ctx, id, asked, func(tx Tx) error { return forgetRefresh(tx, id) })
}

func forgetRefresh(tx Tx, id int64) error {
	_, err := tx.Exec(`UPDATE people SET refresh_token = NULL WHERE id = $1`, id)
	return err
}

// EndPerson ends all that lets somebody in as a person: sessions, API keys and the
// sessions begun with those, and the refresh token. It returns the ids of the keys that
// it revoked; signing in again does not bring them back. Times are those of FinishRefresh.
func (a *Accounts) EndPerson(ctx context.Context, id int64, asked time.Time) (keys []string, err error) {
	defer a.forgetKeys()
	err = a.change(ctx, id, asked, func(tx Tx) (err error) {
		if err := forgetRefresh(tx, id); err != nil {
			return err
		}
		if keys, err = scanStrings(tx.Query(`UPDATE api_keys SET revoked = $1 WHERE person = $2 AND revoked = 0 RETURNING id`, now(), id)); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM sessions WHERE person = $1`, id); err != nil {
			return err
		}
		_, err = tx.Exec(`DELETE FROM sessions WHERE api_key IN (SELECT id FROM api_keys WHERE person = $1)`, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// affected reports whether a statement changed any row.
func affected(result sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}
