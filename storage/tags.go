package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// putTag makes a tag name a manifest, if check, unless that is nil, lets it. It returns
// nil if the tag does already.
func putTag(tx Tx, repository int64, tag string, manifest int64, check func(tag string, exists bool) error) (*TagChange, error) {
	change := &TagChange{Tag: tag}
	var current, since int64
	err := tx.QueryRow(`
		SELECT m.id, m.digest, t.updated FROM tags t JOIN manifests m ON m.id = t.manifest
		WHERE t.repository = $1 AND t.name = $2`, repository, tag).Scan(&current, &change.Previous, &since)
	found := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if found && current == manifest {
		return nil, nil
	}
	if check != nil {
		if err := check(tag, found); err != nil {
			return nil, err
		}
	}
	if !found {
		_, err = tx.Exec(`INSERT INTO tags (repository, name, manifest, updated) VALUES ($1, $2, $3, $4)`, repository, tag, manifest, now())
	} else if _, err = tx.Exec(`UPDATE tags SET manifest = $1, updated = $2 WHERE repository = $3 AND name = $4`, manifest, now(), repository, tag); err == nil {
		err = leaveTag(tx, repository, tag, current, change.Previous, since)
	}
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(`UPDATE manifests SET untagged = NULL WHERE id = $1 AND untagged IS NOT NULL`, manifest)
	return change, err
}

// leaveTag records that a tag names a manifest no more that it named since then.
func leaveTag(tx Tx, repository int64, tag string, manifest int64, d digest.Digest, since int64) error {
	at := now()
	if _, err := tx.Exec(`INSERT INTO tag_history (repository, name, digest, since, until) VALUES ($1, $2, $3, $4, $5)`,
		repository, tag, d.String(), since, at); err != nil {
		return err
	}
	_, err := tx.Exec(`
		UPDATE manifests SET untagged = $1
		WHERE id = $2 AND NOT EXISTS (SELECT 1 FROM tags WHERE manifest = $2)`, at, manifest)
	return err
}

// DeleteTag removes a tag; the manifest that it named stays.
func (r *Registry) DeleteTag(ctx context.Context, repository, tag string) error {
	err := r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		_, err = deleteTag(tx, id, tag)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: tag %q is not in repository %q", ErrManifestUnknown, tag, repository)
		}
		return err
	})
	if err == nil {
		r.manifests.forget(repository, tag)
	}
	return err
}

// deleteTag removes a tag and returns the key of the manifest that it named, or
// [sql.ErrNoRows].
func deleteTag(tx Tx, repository int64, tag string) (manifest int64, err error) {
	var d digest.Digest
	var since int64
	err = tx.QueryRow(`
		SELECT m.id, m.digest, t.updated FROM tags t JOIN manifests m ON m.id = t.manifest
		WHERE t.repository = $1 AND t.name = $2`, repository, tag).Scan(&manifest, &d, &since)
	if err != nil {
		return 0, err
	}
	if _, err := tx.Exec(`DELETE FROM tags WHERE repository = $1 AND name = $2`, repository, tag); err != nil {
		return 0, err
	}
	return manifest, leaveTag(tx, repository, tag, manifest, d, since)
}

// Tag is a tag of a repository, or what it was.
type Tag struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	// Since is when the tag came to name the manifest, and Until when it ceased to; that
	// is zero while it does.
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"`
	// Pulled is when the manifest was last pulled, by the tag or otherwise; zero: never, or
	// the manifest is gone.
	Pulled time.Time `json:"pulled,omitzero"`
	// Restorable tells whether the manifest is there, or can be restored.
	Restorable bool `json:"restorable"`
}

// DescribeTags returns up to n tags of a repository in bytewise order after last, or
// ErrNameUnknown.
func (r *Registry) DescribeTags(ctx context.Context, repository, last string, n int) ([]Tag, error) {
	if err := r.FlushPulls(ctx); err != nil {
		return nil, err
	}
	read := r.database.Read(ctx)
	id, err := repositoryID(read, repository)
	if err != nil {
		return nil, err
	}
	rows, err := read.Query(`
		SELECT t.name, m.digest, t.updated, m.pulled FROM tags t JOIN manifests m ON m.id = t.manifest
		WHERE t.repository = $1 AND t.name > $2 ORDER BY t.name LIMIT $3`, id, last, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tags []Tag
	for rows.Next() {
		t := Tag{Restorable: true}
		if err := rows.Scan(&t.Name, &t.Digest, timeColumn{&t.Since}, timeColumn{&t.Pulled}); err != nil {
			return nil, err
		}
		tags = append(tags, t)
	}
	return tags, rows.Err()
}

// TagHistory returns up to n of what tags of a repository were before they were moved or
// deleted, in the order in which they were, after the one whose key is last, and the key
// of the last one; or ErrNameUnknown. It does not go back further than content that is
// gone.
func (r *Registry) TagHistory(ctx context.Context, repository string, last int64, n int) (_ []Tag, next int64, err error) {
	read := r.database.Read(ctx)
	id, err := repositoryID(read, repository)
	if err != nil {
		return nil, 0, err
	}
	rows, err := read.Query(`
		SELECT h.id, h.name, h.digest, h.since, h.until,
			EXISTS (SELECT 1 FROM manifests WHERE repository = $1 AND digest = h.digest)
			OR EXISTS (SELECT 1 FROM deleted_manifests WHERE repository = $1 AND digest = h.digest)
		FROM tag_history h WHERE h.repository = $1 AND h.id > $2 ORDER BY h.id LIMIT $3`, id, last, n)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	var tags []Tag
	for rows.Next() {
		var t Tag
		if err := rows.Scan(&next, &t.Name, &t.Digest, timeColumn{&t.Since}, timeColumn{&t.Until}, &t.Restorable); err != nil {
			return nil, 0, err
		}
		tags = append(tags, t)
	}
	return tags, next, rows.Err()
}
