package storage

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"
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

// evictPage is how many blobs or manifests are looked for at a time.
const evictPage = 100

// idleBlob is a blob that only copies hold.
type idleBlob struct {
	pulled, id int64
	digest     digest.Digest
}

// Evict removes blobs that only copies of upstreams' repositories hold, least recently
// pulled first, until it has freed n bytes or there are no more, and returns how many it
// freed. Those stay that a repository holds which keep, if it is not nil, accepts. The
// manifests stay, and bring blobs back when they are pulled again. Who is reading one can
// read it to its end.
func (r *Registry) Evict(ctx context.Context, n int64, keep func(repository string) bool) (freed int64, err error) {
	return r.evictBefore(ctx, math.MaxInt64, n, keep)
}

// evictBefore is Evict of blobs that were last pulled before a time.
func (r *Registry) evictBefore(ctx context.Context, before, n int64, keep func(string) bool) (freed int64, err error) {
	var last idleBlob
	for freed < n {
		page, err := r.idleBlobs(ctx, last, before)
		if err != nil || len(page) == 0 {
			return freed, err
		}
		last = page[len(page)-1]
		for _, b := range page {
			size, err := r.evict(ctx, b, keep)
			if err != nil {
				return freed, err
			}
			if freed += size; freed >= n {
				break
			}
		}
	}
	return freed, nil
}

func (r *Registry) idleBlobs(ctx context.Context, last idleBlob, before int64) ([]idleBlob, error) {
	rows, err := r.database.Read(ctx).Query(`
		SELECT pulled, id, digest FROM blobs
		WHERE evictable IS NOT NULL AND (pulled, id) > ($1, $2) AND pulled < $3
		ORDER BY pulled, id LIMIT $4`, last.pulled, last.id, before, evictPage)
	return scanAll(rows, err, func(b *idleBlob) []any { return []any{&b.pulled, &b.id, &b.digest} })
}

// evict takes a blob from all copies, and returns how many bytes it has; 0 if it may not
// go, or was pulled meanwhile. The bytes stay for who can have it restored.
func (r *Registry) evict(ctx context.Context, b idleBlob, keep func(string) bool) (size int64, err error) {
	var gone BlobKey
	err = r.database.Write(ctx, func(tx Tx) error {
		gone, size = BlobKey{}, 0
		var bytes int64
		err := tx.QueryRow(`SELECT size FROM blobs WHERE id = $1 AND digest = $2 AND pulled = $3 AND evictable IS NOT NULL`,
			b.id, b.digest.String(), b.pulled).Scan(&bytes)
		if err != nil {
			return err
		}
		holders, err := holdersOf(tx, b.id)
		if err != nil {
			return err
		}
		if keep != nil && slices.ContainsFunc(holders, func(h holder) bool { return keep(h.name) }) {
			return nil
		}
		for _, h := range holders {
			if err := r.letGo(tx, h.repository, b.id); err != nil {
				return err
			}
		}
		size = bytes
		gone, _, err = forgetBlob(tx, b.id)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err == nil && gone.Digest != "" {
		_, err = r.removeBytes(ctx, gone)
	}
	return size, err
}

// holdersOf returns all repositories that hold a blob.
func holdersOf(q Querier, blob int64) ([]holder, error) {
	var all []holder
	for h, err := range eachHolder(q, blob) {
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// Evicted is what EvictIdle removed.
type Evicted struct {
	Manifests int64
	Bytes     int64 // of blobs
}

// evictionPatience is how long another server is waited for that makes room.
const evictionPatience = 5 * time.Second

// HoldEviction makes the caller the only one of all servers who makes room, until release
// is called: together they would make too much. One that takes long, or stands still, is not
// waited for: too much does less harm.
func (r *Registry) HoldEviction(ctx context.Context) (release func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, evictionPatience)
	defer cancel()
	release, err = r.alone(waiting, r.evicting, "evict", nil)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return func() {}, nil
	}
	return release, err
}

// EvictIdle removes blobs that only copies hold, and manifests of copies with their tags,
// that were neither pulled nor fetched since a time, unless a repository holds them which
// keep, if it is not nil, accepts.
func (r *Registry) EvictIdle(ctx context.Context, before time.Time, keep func(repository string) bool) (Evicted, error) {
	var evicted Evicted
	err := r.FlushPulls(ctx)
	if err == nil {
		evicted.Bytes, err = r.evictBefore(ctx, before.Unix(), math.MaxInt64, keep)
	}
	for last := int64(0); err == nil; {
		var page []idleManifest
		if page, err = r.idleManifests(ctx, last, before.Unix()); err != nil || len(page) == 0 {
			break
		}
		last = page[len(page)-1].id
		for _, m := range page {
			if keep != nil && keep(m.name) {
				continue
			}
			removed, err := r.evictManifest(ctx, m, before.Unix())
			if err != nil {
				return evicted, err
			}
			if removed {
				evicted.Manifests++
			}
		}
	}
	return evicted, err
}

// idleManifest is a manifest of a copy.
type idleManifest struct {
	id, repository int64
	name           string // of the repository
	digest         digest.Digest
}

func (r *Registry) idleManifests(ctx context.Context, last, before int64) ([]idleManifest, error) {
	rows, err := r.database.Read(ctx).Query(`
		SELECT m.id, r.id, r.name, m.digest FROM manifests m JOIN repositories r ON r.id = m.repository
		WHERE r.upstream IS NOT NULL AND m.id > $1 AND m.created < $2 AND m.pulled < $2
		ORDER BY m.id LIMIT $3`, last, before, evictPage)
	return scanAll(rows, err, func(m *idleManifest) []any { return []any{&m.id, &m.repository, &m.name, &m.digest} })
}

// evictManifest removes a manifest of a copy, for good, unless it was pulled meanwhile.
func (r *Registry) evictManifest(ctx context.Context, m idleManifest, before int64) (removed bool, err error) {
	var tags []string
	err = r.database.Write(ctx, func(tx Tx) error {
		removed = false
		idle, err := exists(tx.QueryRow(`SELECT 1 FROM manifests WHERE id = $1 AND digest = $2 AND created < $3 AND pulled < $3`, m.id, m.digest.String(), before))
		if err != nil || !idle {
			return err
		}
		if tags, err = scanStrings(tx.Query(`DELETE FROM tags WHERE manifest = $1 RETURNING name`, m.id)); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM tag_history WHERE repository = $1 AND digest = $2`, m.repository, m.digest.String()); err != nil {
			return err
		}
		removed = true
		return dropManifest(tx, m.repository, m.id)
	})
	if removed && err == nil {
		r.manifests.forget(m.name, append(tags, m.digest.String())...)
	}
	return removed && err == nil, err
}
