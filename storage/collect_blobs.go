package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
)

// maxPush is how long what was pushed is kept, without a manifest that names it, for
// others to follow that are still being pushed.
const maxPush = 24 * time.Hour

// looseBlob is a blob of a repository where no manifest names it.
type looseBlob struct {
	repository, blob int64
	unreferenced     int64
}

// collectBlobs takes blobs from repositories in which no manifest has named them for
// long enough, and removes the bytes of those that no other holds.
func (c *collector) collectBlobs(ctx context.Context) error {
	var last looseBlob
	for {
		page, err := c.looseBlobs(ctx, last)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1]
		if c.DryRun {
			if err := c.tellBlobs(ctx, page); err != nil {
				return err
			}
			continue
		}
		if err := inCollectSteps(ctx, c, page, c.removeBlob); err != nil {
			return err
		}
	}
}

func (c *collector) looseBlobs(ctx context.Context, last looseBlob) ([]looseBlob, error) {
	rows, err := c.registry.database.Read(ctx).Query(`
		SELECT unreferenced, repository, blob FROM repository_blobs
		WHERE unreferenced IS NOT NULL AND (unreferenced, repository, blob) > ($1, $2, $3) AND unreferenced <= $4
		ORDER BY unreferenced, repository, blob LIMIT $5`, last.unreferenced, last.repository, last.blob, c.before(c.Delay), collectPage)
	return scanAll(rows, err, func(b *looseBlob) []any { return []any{&b.unreferenced, &b.repository, &b.blob} })
}

// removeBlob takes a blob from a repository unless something wants it by now.
func (c *collector) removeBlob(tx Tx, s *step, b looseBlob) error {
	var unreferenced sql.NullInt64
	err := tx.QueryRow(`SELECT unreferenced FROM repository_blobs WHERE repository = $1 AND blob = $2`, b.repository, b.blob).Scan(&unreferenced)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (!unreferenced.Valid || unreferenced.Int64 != b.unreferenced) {
		return nil
	}
	if err != nil {
		return err
	}
	// Whatever the books say: what a manifest names is not taken away.
	named, err := exists(tx.QueryRow(`
		SELECT 1 FROM blobs b JOIN manifest_references mr ON mr.digest = b.digest
		WHERE b.id = $1 AND mr.repository = $2`, b.blob, b.repository))
	if err != nil || named {
		return err
	}
	awaited, err := c.isAwaited(tx, b)
	if err != nil || awaited {
		return err
	}
	if err := c.registry.letGo(tx, b.repository, b.blob); err != nil {
		return err
	}
	return s.forgetBlob(tx, b.blob)
}

// forgetBlob removes what is known of a blob that nothing holds.
func (s *step) forgetBlob(tx Tx, blob int64) error {
	key, size, err := forgetBlob(tx, blob)
	if err == nil && key.Digest != "" {
		s.Blobs++
		s.Bytes += size
		s.bytes = append(s.bytes, key)
	}
	return err
}

// isAwaited reports whether something is being pushed to the repository of a blob that
// may name it when all is there.
func (c *collector) isAwaited(q Querier, b looseBlob) (bool, error) {
	if b.unreferenced < c.before(c.Delay+maxPush) {
		return false, nil
	}
	var name string
	if err := q.QueryRow(`SELECT name FROM repositories WHERE id = $1`, b.repository).Scan(&name); err != nil {
		return false, err
	}
	c.registry.mu.Lock()
	pushing := c.registry.pushing[name] > 0
	c.registry.mu.Unlock()
	if pushing {
		return true, nil
	}
	delay := c.Delay
	if c.registry.Shared() {
		delay = max(delay, 2*touchInterval) // what goes on in another process is recorded now and then
	}
	return exists(q.QueryRow(`SELECT 1 FROM uploads WHERE repository = $1 AND "fetch" IS NULL AND updated >= $2`, name, c.before(delay)))
}

// tellBlobs is what a dry run does with blobs that would go.
func (c *collector) tellBlobs(ctx context.Context, page []looseBlob) error {
	read := c.registry.database.Read(ctx)
	for _, b := range page {
		awaited, err := c.isAwaited(read, b)
		if err != nil {
			return err
		}
		if awaited {
			continue
		}
		var name string
		var d digest.Digest
		var size, others int64
		err = read.QueryRow(`
			SELECT r.name, b.digest, b.size,
				(SELECT count(*) FROM repository_blobs WHERE blob = b.id AND repository <> r.id)
				+ (SELECT count(*) FROM deleted_blobs WHERE blob = b.id)
			FROM repositories r, blobs b WHERE r.id = $1 AND b.id = $2`, b.repository, b.blob).Scan(&name, &d, &size, &others)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		line := fmt.Sprintf("blob %s@%s, %s: no manifest has named it for %s", name, d, humanize.IBytes(uint64(size)), ago(b.unreferenced, c.began))
		if others > 0 {
			line += "; its bytes stay for others"
		} else {
			c.total.Blobs++
			c.total.Bytes += size
		}
		c.tell(line)
	}
	return nil
}

// ago is how long before a time something was, in words.
func ago(at, before int64) string {
	return (time.Duration(before-at) * time.Second).Round(time.Second).String()
}

// purgeManifests forgets deleted manifests that are no longer to be restored.
func (c *collector) purgeManifests(ctx context.Context) error {
	for !c.DryRun {
		page, err := c.deletedManifests(ctx)
		if err != nil || len(page) == 0 {
			return err
		}
		err = inCollectSteps(ctx, c, page, func(tx Tx, _ *step, m deletedManifest) error {
			_, err := tx.Exec(`DELETE FROM deleted_manifests WHERE repository = $1 AND digest = $2 AND deleted = $3`, m.repository, m.digest.String(), m.deleted)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

type deletedManifest struct {
	repository int64
	digest     digest.Digest
	deleted    int64
}

func (c *collector) deletedManifests(ctx context.Context) ([]deletedManifest, error) {
	rows, err := c.registry.database.Read(ctx).Query(`
		SELECT repository, digest, deleted FROM deleted_manifests WHERE deleted <= $1 ORDER BY deleted LIMIT $2`, c.before(c.Delay), collectPage)
	return scanAll(rows, err, func(m *deletedManifest) []any { return []any{&m.repository, &m.digest, &m.deleted} })
}

// purgeBlobs forgets deleted blobs that are no longer to be restored.
func (c *collector) purgeBlobs(ctx context.Context) error {
	for !c.DryRun {
		page, err := c.deletedBlobs(ctx)
		if err != nil || len(page) == 0 {
			return err
		}
		err = inCollectSteps(ctx, c, page, func(tx Tx, s *step, b looseBlob) error {
			result, err := tx.Exec(`DELETE FROM deleted_blobs WHERE repository = $1 AND blob = $2 AND deleted = $3`, b.repository, b.blob, b.unreferenced)
			if err != nil {
				return err
			}
			if n, err := result.RowsAffected(); err != nil || n == 0 {
				return err
			}
			return s.forgetBlob(tx, b.blob)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) deletedBlobs(ctx context.Context) ([]looseBlob, error) {
	rows, err := c.registry.database.Read(ctx).Query(`
		SELECT deleted, repository, blob FROM deleted_blobs WHERE deleted <= $1 ORDER BY deleted LIMIT $2`, c.before(c.Delay), collectPage)
	return scanAll(rows, err, func(b *looseBlob) []any { return []any{&b.unreferenced, &b.repository, &b.blob} })
}

// purgeHistory forgets what tags were whose manifests are gone for good.
func (c *collector) purgeHistory(ctx context.Context) error {
	if c.DryRun {
		return nil
	}
	var last int64
	for {
		page, err := scanIDs(c.registry.database.Read(ctx).Query(`
			SELECT id FROM tag_history WHERE id > $1 AND until <= $2 ORDER BY id LIMIT $3`, last, c.before(c.Delay), collectPage))
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1]
		gone, err := scanIDs(c.registry.database.Read(ctx).Query(`
			SELECT id FROM tag_history h WHERE id >= $1 AND id <= $2 AND until <= $3
			AND NOT EXISTS (SELECT 1 FROM manifests WHERE repository = h.repository AND digest = h.digest)
			AND NOT EXISTS (SELECT 1 FROM deleted_manifests WHERE repository = h.repository AND digest = h.digest)`,
			page[0], last, c.before(c.Delay)))
		if err != nil {
			return err
		}
		err = inCollectSteps(ctx, c, gone, func(tx Tx, _ *step, id int64) error {
			_, err := tx.Exec(`DELETE FROM tag_history WHERE id = $1`, id)
			return err
		})
		if err != nil {
			return err
		}
	}
}
