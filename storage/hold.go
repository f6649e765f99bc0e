package storage

import (
	"database/sql"
	"errors"
)

// hold makes a blob part of a repository, or keeps it there for a while longer. ErrQuota:
// that would be too much.
func (r *Registry) hold(tx Tx, repository, blob int64) error {
	var unreferenced sql.NullInt64
	err := tx.QueryRow(`SELECT unreferenced FROM repository_blobs WHERE repository = $1 AND blob = $2`, repository, blob).Scan(&unreferenced)
	if err == nil {
		if unreferenced.Valid {
			_, err = tx.Exec(`UPDATE repository_blobs SET unreferenced = $1 WHERE repository = $2 AND blob = $3`, now(), repository, blob)
		}
		return err
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	_, err = tx.Exec(`
		INSERT INTO repository_blobs (repository, blob, created, unreferenced)
		SELECT $1, b.id, CAST($2 AS BIGINT), CASE
			WHEN EXISTS (SELECT 1 FROM manifest_references WHERE repository = $1 AND digest = b.digest) THEN NULL
			ELSE CAST($2 AS BIGINT) END
		FROM blobs b WHERE b.id = $3`, repository, now(), blob)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM deleted_blobs WHERE repository = $1 AND blob = $2`, repository, blob); err != nil {
		return err
	}
	return r.count(tx, repository, blob, +1)
}

// letGo takes a blob from a repository that holds it.
func (r *Registry) letGo(tx Tx, repository, blob int64) error {
	if _, err := tx.Exec(`DELETE FROM repository_blobs WHERE repository = $1 AND blob = $2`, repository, blob); err != nil {
		return err
	}
	return r.count(tx, repository, blob, -1)
}

// discardBlob takes a blob from a repository so that it can be restored.
func (r *Registry) discardBlob(tx Tx, repository, blob int64) error {
	if err := r.letGo(tx, repository, blob); err != nil {
		return err
	}
	_, err := tx.Exec(`
		INSERT INTO deleted_blobs (repository, blob, deleted) VALUES ($1, $2, $3)
		ON CONFLICT (repository, blob) DO UPDATE SET deleted = excluded.deleted`, repository, blob, now())
	return err
}

// forgetBlob removes the fact that there are the bytes of a blob, unless a repository
// holds it or can have it restored. The bytes are then for the caller to remove.
func forgetBlob(tx Tx, blob int64) (key BlobKey, size int64, err error) {
	err = tx.QueryRow(`
		DELETE FROM blobs WHERE id = $1
		AND NOT EXISTS (SELECT 1 FROM repository_blobs WHERE blob = $1)
		AND NOT EXISTS (SELECT 1 FROM deleted_blobs WHERE blob = $1)
		RETURNING digest, place, size`, blob).Scan(&key.Digest, &key.Place, &size)
	if errors.Is(err, sql.ErrNoRows) {
		return BlobKey{}, 0, nil
	}
	return key, size, err
}

// reference records that a manifest, which is new, names what it names.
func reference(tx Tx, repository, manifest int64, m *Manifest) error {
	for _, ref := range m.references() {
		if _, err := tx.Exec(`INSERT INTO manifest_references (repository, digest, manifest, size) VALUES ($1, $2, $3, $4)`,
			repository, ref.Digest.String(), manifest, ref.Size); err != nil {
			return err
		}
		if _, err := tx.Exec(`
			UPDATE repository_blobs SET unreferenced = NULL
			WHERE repository = $1 AND unreferenced IS NOT NULL AND blob = (SELECT id FROM blobs WHERE digest = $2)`,
			repository, ref.Digest.String()); err != nil {
			return err
		}
	}
	return nil
}

// dereference records that a manifest, which is about to go, names nothing any more.
func dereference(tx Tx, repository, manifest int64) error {
	if _, err := tx.Exec(`
		UPDATE repository_blobs SET unreferenced = $1
		WHERE repository = $2 AND blob IN (
			SELECT b.id FROM manifest_references mr JOIN blobs b ON b.digest = mr.digest
			WHERE mr.manifest = $3 AND NOT EXISTS (
				SELECT 1 FROM manifest_references WHERE repository = $2 AND digest = mr.digest AND manifest <> $3))`,
		now(), repository, manifest); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM manifest_references WHERE manifest = $1`, manifest)
	return err
}
