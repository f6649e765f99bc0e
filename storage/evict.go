package storage

import (
	"context"
	"database/sql"
	"errors"
	"time"

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

// Pulled records when blobs of copies were last pulled.
func (r *Registry) Pulled(ctx context.Context, at map[digest.Digest]time.Time) error {
	return r.database.Write(ctx, func(tx Tx) error {
		for d, pulled := range at {
			if _, err := tx.Exec(`UPDATE blobs SET pulled = $1 WHERE digest = $2 AND pulled < $1`, pulled.Unix(), d.String()); err != nil {
				return err
			}
		}
		return nil
	})
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

// evict removes a blob, its facts first, and returns its size; 0 if it may not go.
func (r *Registry) evict(ctx context.Context, d digest.Digest) (size int64, err error) {
	lock := r.committingLock(d)
	lock.Lock()
	defer lock.Unlock()
	err = r.database.Write(ctx, func(tx Tx) error {
		size = 0
		var blob int64
		if err := tx.QueryRow(`SELECT id, size FROM blobs b WHERE digest = $1 AND`+evictable, d.String()).Scan(&blob, &size); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM repository_blobs WHERE blob = $1`, blob); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM blobs WHERE id = $1`, blob)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// Bytes without a fact would never be found again, so they go whoever has left.
	return size, r.blobs.Delete(context.WithoutCancel(ctx), d)
}
