package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Snapshotter is a [Database] that can be copied while it is used.
type Snapshotter interface {
	// Snapshot writes what is committed at one moment to a new SQLite file.
	Snapshot(ctx context.Context, file string) error
}

// errNoSnapshot is what a database is refused with that cannot be copied.
var errNoSnapshot = errors.New("this database cannot be copied while it is used; use its own tools")

// Snapshot writes all facts, as they are at one moment, to a new SQLite file.
func (r *Registry) Snapshot(ctx context.Context, file string) error {
	database, ok := r.database.(Snapshotter)
	if !ok {
		return errNoSnapshot
	}
	if err := r.FlushPulls(ctx); err != nil {
		return err
	}
	return database.Snapshot(ctx, file)
}

// HoldCollection keeps what this registry's own repositories hold, and bytes that no fact
// mentions, from being collected until release is called.
func (r *Registry) HoldCollection(ctx context.Context) (release func(), err error) {
	return r.holdCollection(ctx)
}

// StoredBlob is a blob that some repository holds, or can have restored.
type StoredBlob struct {
	Digest  digest.Digest
	Size    int64 // in bytes
	Damaged bool  // its bytes were found to be others
	Copied  bool  // only copies of upstreams' repositories hold it
	id      int64
	place   string
}

// StoredBlobs returns some of the blobs after the one that last is, in the order in which
// they came; the zero value is before all.
func (r *Registry) StoredBlobs(ctx context.Context, last StoredBlob) ([]StoredBlob, error) {
	rows, err := r.database.Read(ctx).Query(`
		SELECT id, digest, place, size, damaged IS NOT NULL, evictable IS NOT NULL FROM blobs WHERE id > $1 ORDER BY id LIMIT $2`, last.id, collectPage)
	return scanAll(rows, err, func(b *StoredBlob) []any {
		return []any{&b.id, &b.Digest, &b.place, &b.Size, &b.Damaged, &b.Copied}
	})
}

// OpenBytes returns the bytes of a blob, also if nothing holds it yet, or ErrBlobUnknown.
func (r *Registry) OpenBytes(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	key, err := keyOf(r.database.Read(ctx), d)
	if err != nil && !errors.Is(err, ErrBlobUnknown) {
		return nil, err
	}
	return r.blobs.Open(ctx, key)
}

// AddBytes puts the bytes of a blob into the blob store, without a fact: until there is
// one, collection removes them. ErrDigestInvalid: they are others.
func (r *Registry) AddBytes(ctx context.Context, d digest.Digest, bytes io.Reader) error {
	id, release := r.newUpload()
	defer release()
	w, err := r.blobs.Writer(ctx, id, UploadState{Algorithm: d.Algorithm()})
	if err != nil {
		return err
	}
	if _, err := w.ReadFrom(bytes); err != nil {
		return errors.Join(err, w.Discard())
	}
	lock := r.committingLock(d)
	lock.Lock()
	defer lock.Unlock()
	if _, err := w.Commit(ctx, d); err != nil {
		return errors.Join(err, w.Discard())
	}
	return nil
}

// Lose records that the bytes of a blob are gone: copies of upstreams' repositories no
// longer hold it, and for this registry's own it is damaged.
func (r *Registry) Lose(ctx context.Context, b StoredBlob) error {
	err := r.database.Write(ctx, func(tx Tx) error {
		_, err := r.markDamaged(tx, storedBlob{id: b.id, digest: b.Digest, place: b.place})
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

// SweepBytes removes the bytes of blobs, and the uploads, that no fact mentions.
func (r *Registry) SweepBytes(ctx context.Context) error {
	c := &collector{registry: r}
	return c.collectFiles(ctx)
}

// LeaveStore forgets what is only so where the bytes were that facts were copied from:
// uploads under way, and places of blobs.
func (r *Registry) LeaveStore(ctx context.Context) error {
	return r.database.Write(ctx, func(tx Tx) error {
		if _, err := tx.Exec(`DELETE FROM uploads`); err != nil {
			return err
		}
		return forgetPlaces(tx)
	})
}

// forgetPlaces has blobs be wherever the store has them.
func forgetPlaces(tx Tx) error {
	_, err := tx.Exec(`UPDATE blobs SET place = '' WHERE place <> ''`)
	return err
}

// tables are those that hold a registry's facts, in an order in which what is referred to
// comes before what refers to it. What is not copied stands in uncopiedTables.
var tables = []string{
	"repositories", "blobs", "manifests", "repository_blobs", "manifest_references", "tags",
	"tag_history", "deleted_manifests", "deleted_blobs", "usage", "runs",
	"people", "api_keys", "sessions",
}

// uncopiedTables hold what is of no use elsewhere: uploads without their bytes, and keys
// that are encrypted for one machine, which makes its own.
var uncopiedTables = []string{"uploads", "signing_keys"}

// ErrNotEmpty means that a registry holds something already.
var ErrNotEmpty = errors.New("the registry is not empty")

// CheckEmpty returns ErrNotEmpty if there are repositories, people or API keys.
func (r *Registry) CheckEmpty(ctx context.Context) error { return checkEmpty(r.database.Read(ctx)) }

func checkEmpty(q Querier) error {
	for _, table := range []string{"repositories", "people", "api_keys"} {
		some, err := exists(q.QueryRow(`SELECT 1 FROM ` + table + ` LIMIT 1`))
		if err != nil {
			return err
		}
		if some {
			return fmt.Errorf("%w: it has %s", ErrNotEmpty, strings.ReplaceAll(table, "_", " "))
		}
	}
	return nil
}

// Load copies all facts from another registry's database into this one, which must be
// empty, in one step. The bytes must be there.
func (r *Registry) Load(ctx context.Context, from *Registry) error {
	err := r.database.Write(ctx, func(tx Tx) error {
		if err := checkEmpty(tx); err != nil {
			return err
		}
		for _, table := range []string{"usage", "runs"} {
			if _, err := tx.Exec(`DELETE FROM ` + table); err != nil {
				return err
			}
		}
		for _, table := range tables {
			if err := copyTable(tx, from.database.Read(ctx), table); err != nil {
				return fmt.Errorf("table %s: %w", table, err)
			}
		}
		if err := forgetPlaces(tx); err != nil {
			return err
		}
		// Quotas are this configuration's own.
		_, err := tx.Exec(`DELETE FROM usage WHERE name LIKE 'quota %'`)
		return err
	})
	if err != nil {
		return err
	}
	r.manifests.forgetAll()
	r.accounts.forgetKeys()
	if quotas := r.quotas.Load(); quotas != nil {
		return r.SetQuotas(ctx, *quotas)
	}
	return nil
}

// copyTable copies all rows of a table.
func copyTable(tx Tx, from Querier, table string) error {
	rows, err := from.Query(`SELECT * FROM ` + table)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	places := make([]string, len(columns))
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range columns {
		places[i] = fmt.Sprintf("$%d", i+1)
		into[i] = &values[i]
	}
	insert := fmt.Sprintf(`INSERT INTO %s (%s) VALUES (%s)`, table, strings.Join(columns, ", "), strings.Join(places, ", "))
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if _, err := tx.Exec(insert, values...); err != nil {
			return err
		}
	}
	return rows.Err()
}
