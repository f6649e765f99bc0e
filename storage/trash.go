package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// discardManifest takes a manifest from a repository, with all tags that name it, so that
// it can be restored, and returns those tags.
func discardManifest(tx Tx, repository, manifest int64, collected bool) (tags []string, err error) {
	if tags, err = scanStrings(tx.Query(`SELECT name FROM tags WHERE manifest = $1`, manifest)); err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if _, err := deleteTag(tx, repository, tag); err != nil {
			return nil, err
		}
	}
	var as int64
	if collected {
		as = 1
	}
	if _, err := tx.Exec(`
		INSERT INTO deleted_manifests (repository, digest, media_type, subject, content, deleted, collected)
		SELECT repository, digest, media_type, subject, content, $1, $2 FROM manifests WHERE id = $3
		ON CONFLICT (repository, digest) DO UPDATE SET deleted = excluded.deleted, collected = excluded.collected`,
		now(), as, manifest); err != nil {
		return nil, err
	}
	return tags, dropManifest(tx, repository, manifest)
}

// dropManifest takes a manifest that no tag names from a repository for good.
func dropManifest(tx Tx, repository, manifest int64) error {
	if err := dereference(tx, repository, manifest); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM manifests WHERE id = $1`, manifest)
	return err
}

// discardAll takes all content from a repository so that it can be restored, and returns
// the tags and digests that it had.
func (r *Registry) discardAll(tx Tx, repository int64) (references []string, err error) {
	manifests, err := scanIDs(tx.Query(`SELECT id FROM manifests WHERE repository = $1`, repository))
	if err != nil {
		return nil, err
	}
	if references, err = scanStrings(tx.Query(`SELECT digest FROM manifests WHERE repository = $1`, repository)); err != nil {
		return nil, err
	}
	for _, manifest := range manifests {
		tags, err := discardManifest(tx, repository, manifest, false)
		if err != nil {
			return nil, err
		}
		references = append(references, tags...)
	}
	blobs, err := scanIDs(tx.Query(`SELECT blob FROM repository_blobs WHERE repository = $1`, repository))
	if err != nil {
		return nil, err
	}
	for _, blob := range blobs {
		if err := r.discardBlob(tx, repository, blob); err != nil {
			return nil, err
		}
	}
	return references, nil
}

// revive brings a manifest that was deleted back to its repository, with what it consists
// of and what refers to it as far as that was deleted too. It returns the digests of all
// that is back, none if there is nothing to restore.
func (r *Registry) revive(tx Tx, repository int64, d digest.Digest) ([]string, error) {
	var mediaType string
	var content []byte
	err := tx.QueryRow(`DELETE FROM deleted_manifests WHERE repository = $1 AND digest = $2 RETURNING media_type, content`,
		repository, d.String()).Scan(&mediaType, &content)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(mediaType, content, d.Algorithm())
	if err != nil {
		return nil, fmt.Errorf("restoring %s: %w", d, err)
	}
	back := []string{d.String()}
	if _, err := insertManifest(tx, repository, m); err != nil {
		return nil, err
	}
	blobs, err := scanIDs(tx.Query(`
		SELECT db.blob FROM manifest_references mr
		JOIN manifests m ON m.id = mr.manifest
		JOIN blobs b ON b.digest = mr.digest
		JOIN deleted_blobs db ON db.blob = b.id AND db.repository = mr.repository
		WHERE m.repository = $1 AND m.digest = $2`, repository, d.String()))
	if err != nil {
		return nil, err
	}
	for _, blob := range blobs {
		if err := r.hold(tx, repository, blob); err != nil {
			return nil, err
		}
	}
	family, err := scanStrings(tx.Query(`SELECT digest FROM deleted_manifests WHERE repository = $1 AND subject = $2`, repository, d.String()))
	if err != nil {
		return nil, err
	}
	for _, child := range m.Children {
		family = append(family, child.String())
	}
	for _, other := range family {
		also, err := r.revive(tx, repository, digest.Digest(other))
		if err != nil {
			return nil, err
		}
		back = append(back, also...)
	}
	return back, nil
}

// reviveChildren brings back those entries of an index, which is being pushed, that were
// collected as garbage: who pushes it may have seen them a moment ago.
func (r *Registry) reviveChildren(tx Tx, repository int64, m *Manifest) error {
	for _, child := range m.Children {
		collected, err := exists(tx.QueryRow(`
			SELECT 1 FROM deleted_manifests WHERE repository = $1 AND digest = $2 AND collected = 1`, repository, child.String()))
		if err != nil {
			return err
		}
		if collected {
			if _, err := r.revive(tx, repository, child); err != nil {
				return err
			}
		}
	}
	return nil
}

// RestoreTag makes a tag of this registry's own repository name a manifest again, which
// was deleted not long ago, or is only no longer tagged, and returns how the tag changed;
// nil: it names that manifest already. ErrManifestUnknown: it is gone.
func (r *Registry) RestoreTag(ctx context.Context, repository, tag string, d digest.Digest) (*TagChange, error) {
	var change *TagChange
	var back []string
	err := r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		if back, err = r.revive(tx, id, d); err != nil {
			return err
		}
		manifest, err := manifestID(tx, id, d)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: %s is neither in repository %q nor among what can be restored", ErrManifestUnknown, d, repository)
		}
		if err != nil {
			return err
		}
		change, err = putTag(tx, id, tag, manifest, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.manifests.forget(repository, append(back, tag)...)
	return change, nil
}
