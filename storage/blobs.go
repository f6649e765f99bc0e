package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// StatBlob returns the size in bytes of a blob that a repository holds, or
// ErrBlobUnknown. One that no manifest names yet is kept for a while from then on: who
// asks may be about to push one.
func (r *Registry) StatBlob(ctx context.Context, repository string, d digest.Digest) (int64, error) {
	size, _, err := r.findBlob(ctx, repository, d)
	return size, err
}

// findBlob is StatBlob, and returns where the bytes are.
func (r *Registry) findBlob(ctx context.Context, repository string, d digest.Digest) (size int64, key BlobKey, err error) {
	key.Digest = d
	var unreferenced, damaged sql.NullInt64
	err = r.database.Read(ctx).QueryRow(`
		SELECT b.size, b.place, b.damaged, rb.unreferenced FROM blobs b
		JOIN repositories r ON r.name = $1
		JOIN repository_blobs rb ON rb.repository = r.id AND rb.blob = b.id
		WHERE b.digest = $2`, repository, d.String()).Scan(&size, &key.Place, &damaged, &unreferenced)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, key, blobUnknown(repository, d)
	case err != nil:
		return 0, key, err
	case damaged.Valid:
		return 0, key, fmt.Errorf("%w: the bytes of %s were found to be others, and are no longer served; push it again", ErrBlobUnknown, d)
	case unreferenced.Valid && unreferenced.Int64 < now():
		return size, key, r.keepUnreferenced(ctx, repository, d)
	}
	return size, key, nil
}

// keepUnreferenced has a blob that no manifest names kept as if it had come just now, or
// returns ErrBlobUnknown if it is gone.
func (r *Registry) keepUnreferenced(ctx context.Context, repository string, d digest.Digest) error {
	err := r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		held, err := holdsBlob(tx, id, d)
		if err == nil && !held {
			err = blobUnknown(repository, d)
		}
		if err != nil {
			return err
		}
		_, err = tx.Exec(`
			UPDATE repository_blobs SET unreferenced = $1
			WHERE repository = $2 AND blob = (SELECT id FROM blobs WHERE digest = $3) AND unreferenced IS NOT NULL`, now(), id, d.String())
		return err
	})
	if errors.Is(err, ErrFull) || errors.Is(err, ErrMoving) {
		return nil // it can be read; that it may go sooner does less harm
	}
	return err
}

// OpenBlob returns the bytes and the size of a blob that a repository holds, or
// ErrBlobUnknown.
func (r *Registry) OpenBlob(ctx context.Context, repository string, d digest.Digest) (io.ReadSeekCloser, int64, error) {
	size, key, err := r.findBlob(ctx, repository, d)
	if err != nil {
		return nil, 0, err
	}
	blob, err := r.blobs.Open(ctx, key)
	return blob, size, err
}

// DeleteBlob takes a blob from a repository, or returns ErrBlobUnknown, or
// ErrBlobReferenced while a manifest there names it. Its bytes stay until they are
// collected.
func (r *Registry) DeleteBlob(ctx context.Context, repository string, d digest.Digest) error {
	return r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		var manifest string
		err = tx.QueryRow(`
			SELECT m.digest FROM manifest_references mr JOIN manifests m ON m.id = mr.manifest
			WHERE mr.repository = $1 AND mr.digest = $2 LIMIT 1`, id, d.String()).Scan(&manifest)
		if err == nil {
			return fmt.Errorf("%w: manifest %s names it, delete that first", ErrBlobReferenced, manifest)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		var blob int64
		err = tx.QueryRow(`
			SELECT b.id FROM blobs b JOIN repository_blobs rb ON rb.blob = b.id
			WHERE rb.repository = $1 AND b.digest = $2`, id, d.String()).Scan(&blob)
		if errors.Is(err, sql.ErrNoRows) {
			return blobUnknown(repository, d)
		}
		if err != nil {
			return err
		}
		return r.discardBlob(tx, id, blob)
	})
}

// MountBlob makes a blob that repository from holds part of another repository too.
// With from empty any repository that readable accepts will do; a nil readable accepts
// all. ErrBlobUnknown: there is none.
func (r *Registry) MountBlob(ctx context.Context, repository, from string, d digest.Digest, readable func(repository string) bool) error {
	nowhere := fmt.Errorf("%w: nowhere to mount %s from", ErrBlobUnknown, d)
	accept := func(name string) bool { return readable == nil || readable(name) }
	if from == "" {
		// There may be many to ask about, for which nobody is to wait who writes.
		_, h, found, err := findHolder(r.database.Read(ctx), d, func(h holder) bool { return accept(h.name) })
		if err != nil {
			return err
		}
		if !found {
			return nowhere
		}
		from = h.name
	} else if !accept(from) {
		return nowhere
	}
	return r.database.Write(ctx, func(tx Tx) error {
		var blob int64
		err := tx.QueryRow(`
			SELECT b.id FROM blobs b
			JOIN repositories r ON r.name = $1
			JOIN repository_blobs rb ON rb.repository = r.id AND rb.blob = b.id
			WHERE b.digest = $2 AND b.damaged IS NULL`, from, d.String()).Scan(&blob)
		if errors.Is(err, sql.ErrNoRows) {
			return nowhere
		}
		if err != nil {
			return err
		}
		id, err := ensureRepository(tx, repository, "")
		if err != nil {
			return err
		}
		return r.hold(tx, id, blob)
	})
}

// addBlob records that a repository, a copy of the upstream's unless that is empty,
// holds a blob, whose bytes are in the blob store and were just found to be right. What is
// at another place is known already, and right too: it returns the place that is to be
// removed then, which is the same if there is but one. If nobody knows where that is, the
// new place is where it is from now on.
func (r *Registry) addBlob(tx Tx, repository, upstream string, key BlobKey, size int64) (spare string, err error) {
	id, err := ensureRepository(tx, repository, upstream)
	if err != nil {
		return "", err
	}
	var blob int64
	var place string
	var damaged sql.NullInt64
	d := key.Digest.String()
	err = tx.QueryRow(`SELECT id, place, damaged FROM blobs WHERE digest = $1`, d).Scan(&blob, &place, &damaged)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		// That it is here is as good as a pull: what was fetched last is not evicted first.
		at := now()
		err = tx.QueryRow(`INSERT INTO blobs (digest, size, place, created, pulled) VALUES ($1, $2, $3, $4, $5) RETURNING id`,
			d, size, key.Place, at, at).Scan(&blob)
		place = key.Place
	case err == nil && (damaged.Valid || place == ""):
		spare = place
		_, err = tx.Exec(`UPDATE blobs SET damaged = NULL, place = $1 WHERE id = $2`, key.Place, blob)
		place = key.Place
	case err == nil:
		spare = key.Place
	}
	if err != nil {
		return "", err
	}
	if spare == place {
		spare = ""
	}
	return spare, r.hold(tx, id, blob)
}

// keyOf returns where the bytes of a blob are, which may be gone, or ErrBlobUnknown.
func keyOf(q Querier, d digest.Digest) (BlobKey, error) {
	key := BlobKey{Digest: d}
	err := q.QueryRow(`SELECT place FROM blobs WHERE digest = $1`, d.String()).Scan(&key.Place)
	if errors.Is(err, sql.ErrNoRows) {
		return key, fmt.Errorf("%w: there is no %s", ErrBlobUnknown, d)
	}
	return key, err
}

func holdsBlob(q Querier, repository int64, d digest.Digest) (bool, error) {
	return exists(q.QueryRow(`
		SELECT 1 FROM blobs b JOIN repository_blobs rb ON rb.blob = b.id
		WHERE rb.repository = $1 AND b.digest = $2 AND b.damaged IS NULL`, repository, d.String()))
}

func blobUnknown(repository string, d digest.Digest) error {
	return fmt.Errorf("%w: %s is not in repository %q", ErrBlobUnknown, d, repository)
}
