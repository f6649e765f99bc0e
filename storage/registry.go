// Package storage keeps what a registry keeps: the bytes of blobs in a [BlobStore], and
// everything else (repositories, manifests, tags, referrers, uploads under way) as facts
// in a [Database]. [Registry] joins the two and makes the promises: what it has said
// yes to survives a crash, bytes have the digest that they are asked by, and a tag
// never names a manifest that is not there.
//
// Bytes always come before the facts that mention them, and go after.
package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Registry is a registry's content. Its methods are safe for concurrent use and return
// errors that wrap this package's sentinels.
type Registry struct {
	blobs     BlobStore
	database  gate
	manifests *manifestCache
	accounts  *Accounts
	pulls     pulls
	quotas    atomic.Pointer[[]Quota]

	mu      sync.Mutex
	uploads map[string]*uploadLock // those that a request works on
	pushing map[string]int         // repositories that blobs are being pushed to → how many

	touchInterval time.Duration

	collecting chan struct{} // has room for the one that collects
	verifying  chan struct{} // likewise
	evicting   chan struct{} // likewise
	counting   chan struct{} // likewise

	// committing has the locks that are held while blobs get their bytes and their facts.
	// There are many, so that blobs that share one seldom wait for each other's disk.
	committing [256]sync.Mutex
}

// New returns the registry over bytes and facts, which it owns from now on.
func New(blobs BlobStore, database Database) *Registry {
	gate := gate{database}
	return &Registry{
		blobs:     blobs,
		database:  gate,
		manifests: newManifestCache(),
		accounts:  NewAccounts(gate),
		uploads:   make(map[string]*uploadLock),
		pushing:   make(map[string]int),

		touchInterval: touchInterval,

		collecting: make(chan struct{}, 1),
		verifying:  make(chan struct{}, 1),
		evicting:   make(chan struct{}, 1),
		counting:   make(chan struct{}, 1),
	}
}

// Close ends the registry; no method may be called after it.
func (r *Registry) Close() error {
	return errors.Join(r.FlushPulls(context.Background()), r.database.Close(), r.blobs.Close())
}

// Shared reports whether other processes serve the same registry.
func (r *Registry) Shared() bool { return r.database.Shared() }

// Remote is a [BlobStore] that may not be reachable, and may not do all that it is asked.
type Remote interface {
	// Check returns an error unless it can be reached.
	Check(ctx context.Context) error
	// Probe tries all that is asked of it, and returns an error that says what it cannot do.
	Probe(ctx context.Context) error
}

// Check returns an error unless facts and bytes can be read.
func (r *Registry) Check(ctx context.Context) error {
	if _, err := exists(r.database.Read(ctx).QueryRow(`SELECT 1 FROM repositories WHERE id = 0`)); err != nil {
		return err
	}
	if remote, ok := r.blobs.(Remote); ok {
		return remote.Check(ctx)
	}
	return nil
}

// Probe finds out whether a store that is elsewhere can do what is asked of it. If it is
// not, ok is false.
func (r *Registry) Probe(ctx context.Context) (ok bool, err error) {
	remote, ok := r.blobs.(Remote)
	if !ok {
		return false, nil
	}
	return true, remote.Probe(ctx)
}

// Accounts returns who may sign in to the registry.
func (r *Registry) Accounts() *Accounts { return r.accounts }

// Repositories returns up to n names of repositories that hold at least one manifest,
// in bytewise order after last.
func (r *Registry) Repositories(ctx context.Context, last string, n int) ([]string, error) {
	return scanStrings(r.database.Read(ctx).Query(`
		SELECT name FROM repositories
		WHERE name > $1 AND EXISTS (SELECT 1 FROM manifests WHERE repository = repositories.id)
		ORDER BY name LIMIT $2`, last, n))
}

// Tags returns up to n tags of a repository in bytewise order after last, or
// ErrNameUnknown.
func (r *Registry) Tags(ctx context.Context, repository, last string, n int) ([]string, error) {
	read := r.database.Read(ctx)
	id, err := repositoryID(read, repository)
	if err != nil {
		return nil, err
	}
	return scanStrings(read.Query(`
		SELECT name FROM tags WHERE repository = $1 AND name > $2
		ORDER BY name LIMIT $3`, id, last, n))
}

// Stats counts what is kept.
type Stats struct {
	Repositories int64 `json:"repositories"`
	Manifests    int64 `json:"manifests"`
	Tags         int64 `json:"tags"`
	Blobs        int64 `json:"blobs"`      // blobs with bytes in the blob store
	BlobBytes    int64 `json:"blob_bytes"` // each blob once, however many repositories hold it
	Uploads      int64 `json:"uploads"`    // under way
}

// Stats counts what is kept.
func (r *Registry) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	err := r.database.Read(ctx).QueryRow(`
		SELECT (SELECT count(*) FROM repositories WHERE EXISTS (SELECT 1 FROM manifests WHERE repository = repositories.id)),
			(SELECT count(*) FROM manifests),
			(SELECT count(*) FROM tags),
			(SELECT count(*) FROM blobs),
			(SELECT coalesce(sum(size), 0) FROM blobs),
			(SELECT count(*) FROM uploads WHERE "fetch" IS NULL)`).
		Scan(&s.Repositories, &s.Manifests, &s.Tags, &s.Blobs, &s.BlobBytes, &s.Uploads)
	return s, err
}

// repositoryID returns the key of a repository, or ErrNameUnknown.
func repositoryID(q Querier, name string) (int64, error) {
	var id int64
	err := q.QueryRow(`SELECT id FROM repositories WHERE name = $1`, name).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("%w: there is no repository %q", ErrNameUnknown, name)
	}
	return id, err
}

// ensureRepository returns the key of a repository that is a copy of the upstream's, or
// this registry's own if upstream is empty, which it makes if need be. What is pushed
// and what is copied never share a repository: ErrCopy, ErrNotCopy.
func ensureRepository(tx Tx, name, upstream string) (int64, error) {
	var id int64
	var of string
	err := tx.QueryRow(`SELECT id, coalesce(upstream, '') FROM repositories WHERE name = $1`, name).Scan(&id, &of)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRow(`INSERT INTO repositories (name, created, upstream) VALUES ($1, $2, $3) RETURNING id`,
			name, now(), sql.NullString{String: upstream, Valid: upstream != ""}).Scan(&id)
		return id, err
	}
	switch {
	case err != nil:
		return 0, err
	case of == upstream:
		return id, nil
	case upstream == "":
		return 0, fmt.Errorf("%w: %q is a copy of %s's", ErrCopy, name, of)
	}
	return 0, fmt.Errorf("%w: %q", ErrNotCopy, name)
}

// now is the time as the facts keep it: seconds since 1970.
func now() int64 { return time.Now().Unix() }

// scanAll returns what a query found: a T for each row, whose columns are scanned to where
// columns says.
func scanAll[T any](rows *sql.Rows, err error, columns func(*T) []any) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		var row T
		if err := rows.Scan(columns(&row)...); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

func scanStrings(rows *sql.Rows, err error) ([]string, error) {
	return scanAll(rows, err, func(s *string) []any { return []any{s} })
}

func scanIDs(rows *sql.Rows, err error) ([]int64, error) {
	return scanAll(rows, err, func(id *int64) []any { return []any{id} })
}
