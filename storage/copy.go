package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Snapshotter is a [Database] that can be copied while it is used.
type Snapshotter interface {
	// Snapshot writes what is committed at one moment to a new SQLite file.
	Snapshot(ctx context.Context, file string) error
}

// Snapshot writes all facts, as they are at one moment, to a new SQLite file. If the database
// has no way to do so, ok is false: Load reads them as well.
func (r *Registry) Snapshot(ctx context.Context, file string) (ok bool, err error) {
	if err := r.FlushPulls(ctx); err != nil {
		return false, err
	}
	database, ok := r.database.Database.(Snapshotter)
	if !ok {
		return false, nil
	}
	return true, database.Snapshot(ctx, file)
}

// MomentReader is a [Database] that is read as it is at one moment, while it is used.
type MomentReader interface {
	// ReadMoment calls f, for which nothing changes.
	ReadMoment(ctx context.Context, f func(Querier) error) error
}

// readMoment calls f with the facts as they are at one moment, if the database can, and
// otherwise with those of many.
func (r *Registry) readMoment(ctx context.Context, f func(Querier) error) error {
	if database, ok := r.database.Database.(MomentReader); ok {
		return database.ReadMoment(ctx, f)
	}
	return f(r.database.Read(ctx))
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
// one, collection removes them. It returns where they are. ErrDigestInvalid: they are
// others.
func (r *Registry) AddBytes(ctx context.Context, d digest.Digest, bytes io.Reader) (BlobKey, error) {
	id, release := r.newUpload()
	defer release()
	w, err := r.blobs.Writer(ctx, id, UploadState{Algorithm: d.Algorithm()})
	if err != nil {
		return BlobKey{}, err
	}
	if _, err := w.ReadFrom(bytes); err != nil {
		return BlobKey{}, errors.Join(err, w.Discard())
	}
	lock := r.committingLock(d)
	lock.Lock()
	defer lock.Unlock()
	place, err := w.Commit(ctx, d)
	if err := errors.Join(err, w.Discard()); err != nil {
		return BlobKey{}, err
	}
	return BlobKey{d, place}, nil
}

// maxBrought is how long bytes are kept that were brought, for facts that did not follow: who
// interrupted that may go on with it.
const maxBrought = 7 * 24 * time.Hour

// RecordBrought records where AddBytes has put the bytes of blobs whose facts Load is to
// bring. They are not collected then, for a week.
func (r *Registry) RecordBrought(ctx context.Context, keys []BlobKey) error {
	return r.database.Write(ctx, func(tx Tx) error {
		for _, key := range keys {
			if _, err := tx.Exec(`
				INSERT INTO brought (digest, place, at) VALUES ($1, $2, $3)
				ON CONFLICT (digest) DO UPDATE SET place = excluded.place, at = excluded.at`, key.Digest.String(), key.Place, now()); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgetBrought has what was brought long ago be garbage.
func (r *Registry) forgetBrought(ctx context.Context) error {
	return r.database.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`DELETE FROM brought WHERE at < $1`, now()-int64(maxBrought/time.Second))
		return err
	})
}

// IsBrought reports whether RecordBrought was told of the bytes of a blob, and they are
// there, as many as it has. They were right when they came.
func (r *Registry) IsBrought(ctx context.Context, b StoredBlob) (bool, error) {
	key := BlobKey{Digest: b.Digest}
	err := r.database.Read(ctx).QueryRow(`SELECT place FROM brought WHERE digest = $1`, b.Digest.String()).Scan(&key.Place)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return hasSize(b.Size)(r.blobs.Open(ctx, key))
}

// HasBytes reports whether there are bytes of a blob, as many as it has. They were right
// when they came.
func (r *Registry) HasBytes(ctx context.Context, b StoredBlob) (bool, error) {
	return hasSize(b.Size)(r.OpenBytes(ctx, b.Digest))
}

// hasSize returns what reports whether what was opened is there, and of a size.
func hasSize(want int64) func(io.ReadSeekCloser, error) (bool, error) {
	return func(bytes io.ReadSeekCloser, err error) (bool, error) {
		if errors.Is(err, ErrBlobUnknown) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		defer bytes.Close()
		size, err := bytes.Seek(0, io.SeekEnd)
		return size == want, err
	}
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

// SweepBytes removes the bytes, of blobs and of uploads, that no fact mentions.
func (r *Registry) SweepBytes(ctx context.Context) error {
	c := &collector{registry: r}
	return c.collectFiles(ctx)
}

// LeaveStore forgets what is only so where the facts were copied from, or the bytes are:
// uploads under way, places of blobs, and that the registry is being moved.
func (r *Registry) LeaveStore(ctx context.Context) error {
	if err := r.Thaw(ctx); err != nil {
		return err
	}
	return r.database.Write(ctx, func(tx Tx) error {
		takeTime(tx)
		if _, err := tx.Exec(`DELETE FROM uploads`); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE blobs SET place = '' WHERE place <> ''`)
		return err
	})
}

// tables are those that hold a registry's facts, in an order in which what is referred to
// comes before what refers to it. What is not copied stands in uncopiedTables.
var tables = []string{
	"repositories", "blobs", "manifests", "repository_blobs", "manifest_references", "tags",
	"tag_history", "deleted_manifests", "deleted_blobs", "usage", "runs",
	"people", "api_keys", "sessions",
}

// uncopiedTables hold what is of no use elsewhere: uploads without their bytes, keys that
// are encrypted for one machine, which makes its own, what was brought there, and that it is
// being moved.
var uncopiedTables = []string{"uploads", "signing_keys", "brought", "moving"}

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

// Resequencer is a [Database] whose keys that count by themselves do not heed those that
// were given to them.
type Resequencer interface {
	// Resequence has them go on after those that there are.
	Resequence(tx Tx) error
}

// LoadOptions are those of Load.
type LoadOptions struct {
	// SameStore tells that both registries have their bytes in one store.
	SameStore bool
	// Lost are blobs that there are no bytes of.
	Lost []StoredBlob
}

// Load copies all facts from another registry's database into this one, which must be
// empty, in one step. The bytes must be there, and recorded by RecordBrought unless both
// have the same store. Blobs whose bytes are lost copies of upstreams' repositories do not
// hold here, and for this registry's own they are damaged. Nobody may write to the other
// meanwhile, unless its database is a [MomentReader].
func (r *Registry) Load(ctx context.Context, from *Registry, options LoadOptions) error {
	err := r.database.Write(ctx, func(tx Tx) error {
		takeTime(tx)
		if err := checkEmpty(tx); err != nil {
			return err
		}
		for _, table := range []string{"usage", "runs"} {
			if _, err := tx.Exec(`DELETE FROM ` + table); err != nil {
				return err
			}
		}
		err := from.readMoment(ctx, func(q Querier) error {
			for _, table := range tables {
				if err := copyTable(tx, q, table); err != nil {
					return fmt.Errorf("table %s: %w", table, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if !options.SameStore {
			if err := r.loadPlaces(tx, options.Lost); err != nil {
				return err
			}
		}
		for _, statement := range []string{
			`DELETE FROM brought`,
			`DELETE FROM usage WHERE name LIKE 'quota %'`, // quotas are this configuration's own
		} {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		if database, ok := r.database.Database.(Resequencer); ok {
			return database.Resequence(tx)
		}
		return nil
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

// loadPlaces records where the bytes are of blobs whose facts were copied. It is an error if
// there are none that were brought, unless they are lost, or known to be wrong.
func (r *Registry) loadPlaces(tx Tx, lost []StoredBlob) error {
	for _, b := range lost {
		// There may be some of an earlier time, which are not to be looked for.
		if _, err := tx.Exec(`DELETE FROM brought WHERE digest = $1`, b.Digest.String()); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`UPDATE blobs SET place = coalesce((SELECT place FROM brought WHERE digest = blobs.digest), '')`); err != nil {
		return err
	}
	for _, b := range lost {
		if _, err := r.markDamaged(tx, storedBlob{id: b.id, digest: b.Digest}); err != nil {
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
	}
	var missing string
	err := tx.QueryRow(`
		SELECT digest FROM blobs WHERE damaged IS NULL AND NOT EXISTS (SELECT 1 FROM brought WHERE digest = blobs.digest)
		LIMIT 1`).Scan(&missing)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: the bytes of blob %s were not brought", errMiscopied, missing)
	}
	return err
}

// copyTable copies all rows of a table. It is an error if it has another number of them then.
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
	into := NewInserter(tx, table, columns...)
	var copied int64
	for ; rows.Next(); copied++ {
		row, fields := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			fields[i] = &row[i]
		}
		if err := rows.Scan(fields...); err != nil {
			return err
		}
		for i, value := range row {
			if text, ok := value.(string); ok {
				// PostgreSQL has no text with such characters, and nothing needs them.
				row[i] = strings.ReplaceAll(text, "\x00", "")
			}
		}
		if err := into.Add(row...); err != nil {
			return err
		}
	}
	if err := errors.Join(rows.Err(), into.Flush()); err != nil {
		return err
	}
	var found int64
	if err := tx.QueryRow(`SELECT count(*) FROM ` + table).Scan(&found); err != nil {
		return err
	}
	if found != copied {
		return fmt.Errorf("%w: %d rows were read and %d written", errMiscopied, copied, found)
	}
	return nil
}

var errMiscopied = errors.New("copying went wrong")
