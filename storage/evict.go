package storage

import (
	"context"
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"
)

// Space is the room on the disk that blobs are on.
type Space struct {
	Free  int64 // bytes that this process may still write
	Total int64 // bytes that there are
}

// SpaceReporter is a [BlobStore] on a disk that can be full.
type SpaceReporter interface {
	Space() (Space, error)
}

// Space returns the room for blobs; ok is false if they are where there always is some.
func (r *Registry) Space() (_ Space, ok bool, err error) {
	reporter, ok := r.blobs.(SpaceReporter)
	if !ok {
		return Space{}, false, nil
	}
	space, err := reporter.Space()
	return space, true, err
}

// evictable are the blobs that only copies hold: what was pushed is never evicted.
const evictable = `
	EXISTS (SELECT 1 FROM repository_blobs WHERE blob = b.id)
	AND NOT EXISTS (
		SELECT 1 FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
		WHERE rb.blob = b.id AND r.upstream IS NULL)`

// Evictable returns how many bytes Evict could free at most.
func (r *Registry) Evictable(ctx context.Context) (n int64, err error) {
	err = r.database.Read(ctx).QueryRow(`SELECT coalesce(sum(size), 0) FROM blobs b WHERE` + evictable).Scan(&n)
	return n, err
}

// evictStep is how many blobs are looked for at a time.
const evictStep = 100

// Evict removes blobs that only copies of upstreams' repositories hold, least recently
// pulled first, until it has freed n bytes or there are no more, and returns how many it
// freed. Their manifests stay, and bring them back when they are pulled again. Who is
// reading one can read it to its end.
func (r *Registry) Evict(ctx context.Context, n int64) (freed int64, err error) {
	for freed < n {
		found, err := scanStrings(r.database.Read(ctx).Query(`SELECT digest FROM blobs b WHERE`+evictable+` ORDER BY pulled, id LIMIT $1`, evictStep))
		if err != nil || len(found) == 0 {
			return freed, err
		}
		before := freed
		for _, d := range found {
			size, err := r.evict(ctx, digest.Digest(d))
			if err != nil {
				return freed, err
			}
			if freed += size; freed >= n {
				return freed, nil
			}
		}
		if freed == before {
			return freed, nil // all of them were taken into use meanwhile
		}
	}
	return freed, nil
}

// evict takes a blob from all copies, and returns how many bytes that frees; 0 if it may
// not go.
func (r *Registry) evict(ctx context.Context, d digest.Digest) (size int64, err error) {
	var gone digest.Digest
	err = r.database.Write(ctx, func(tx Tx) error {
		gone, size = "", 0
		var blob int64
		if err := tx.QueryRow(`SELECT id FROM blobs b WHERE digest = $1 AND`+evictable, d.String()).Scan(&blob); err != nil {
			return err
		}
		holders, err := scanIDs(tx.Query(`SELECT repository FROM repository_blobs WHERE blob = $1`, blob))
		if err != nil {
			return err
		}
		for _, repository := range holders {
			if err := r.letGo(tx, repository, blob); err != nil {
				return err
			}
		}
		gone, size, err = forgetBlob(tx, blob)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil || gone == "" {
		return 0, err
	}
	_, err = r.removeBytes(ctx, gone)
	return size, err
}
