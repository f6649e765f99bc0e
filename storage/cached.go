package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// PutCached makes m, which an upstream gave, part of the repository that is a copy of
// the upstream's, and lets tag, unless it is empty, name it. ErrNotCopy: the name is
// this registry's own.
func (r *Registry) PutCached(ctx context.Context, upstream, repository string, m *Manifest, tag string) error {
	err := r.database.Write(ctx, func(tx Tx) error {
		id, err := ensureRepository(tx, repository, upstream)
		if err != nil {
			return err
		}
		manifest, err := insertManifest(tx, id, m)
		if err != nil || tag == "" {
			return err
		}
		if _, err := putTag(tx, id, tag, manifest, nil); err != nil {
			return err
		}
		return confirmTag(tx, id, tag, now())
	})
	if err == nil {
		r.manifests.forget(repository, tag, m.Digest.String())
	}
	return err
}

// ConfirmTag records that an upstream still says what a tag of its copy says.
func (r *Registry) ConfirmTag(ctx context.Context, repository, tag string, at time.Time) error {
	return r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		return confirmTag(tx, id, tag, at.Unix())
	})
}

func confirmTag(tx Tx, repository int64, tag string, at int64) error {
	_, err := tx.Exec(`UPDATE tags SET confirmed = $1 WHERE repository = $2 AND name = $3`, at, repository, tag)
	return err
}

// TagConfirmed returns when an upstream last said what a tag of its copy says. The zero
// time: never, or there is no such tag.
func (r *Registry) TagConfirmed(ctx context.Context, repository, tag string) (time.Time, error) {
	var at sql.NullInt64
	err := r.database.Read(ctx).QueryRow(`
		SELECT t.confirmed FROM tags t JOIN repositories r ON r.id = t.repository
		WHERE r.name = $1 AND t.name = $2`, repository, tag).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !at.Valid {
		return time.Time{}, nil
	}
	return time.Unix(at.Int64, 0), err
}

// IsOwn reports whether a name is this registry's own: a repository of that name, or one
// with the same first component, is or ever was pushed here, or is being pushed.
func (r *Registry) IsOwn(ctx context.Context, name string) (bool, error) {
	first, _, _ := strings.Cut(name, "/")
	// What begins with "first/" is less than "first0", since '0' follows '/'.
	return exists(r.database.Read(ctx).QueryRow(`
		SELECT 1 FROM repositories WHERE upstream IS NULL AND (name = $1 OR name >= $2 AND name < $3)
		UNION ALL
		SELECT 1 FROM uploads WHERE "fetch" IS NULL AND (repository = $1 OR repository >= $2 AND repository < $3)
		LIMIT 1`, first, first+"/", first+"0"))
}

// Reference is what the manifests of a repository say of a digest.
type ReferencedSize struct {
	Named bool  // some manifest names it
	Size  int64 // in bytes, -1 if no descriptor says
}

// Referenced returns what the manifests of a repository say of content, present or not.
func (r *Registry) Referenced(ctx context.Context, repository string, d digest.Digest) (ReferencedSize, error) {
	var size sql.NullInt64
	err := r.database.Read(ctx).QueryRow(`
		SELECT max(mr.size) FROM manifest_references mr JOIN repositories r ON r.id = mr.repository
		WHERE r.name = $1 AND mr.digest = $2`, repository, d.String()).Scan(&size)
	if err != nil || !size.Valid {
		return ReferencedSize{Size: -1}, err
	}
	return ReferencedSize{Named: true, Size: size.Int64}, nil
}

// CachedBlob returns the size of a blob that some copy of the upstream's repositories
// holds, or ErrBlobUnknown, also if only its bytes are gone.
func (r *Registry) CachedBlob(ctx context.Context, upstream string, d digest.Digest) (int64, error) {
	read := r.database.Read(ctx)
	id, _, found, err := findHolder(read, d, func(h holder) bool { return h.upstream == upstream })
	if err != nil {
		return 0, err
	}
	key := BlobKey{Digest: d}
	var size int64
	if found {
		err = read.QueryRow(`SELECT size, place FROM blobs WHERE id = $1 AND digest = $2`, id, d.String()).Scan(&size, &key.Place)
	}
	if !found || errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("%w: no copy of a repository of %s holds %s", ErrBlobUnknown, upstream, d)
	}
	if err != nil {
		return 0, err
	}
	blob, err := r.blobs.Open(ctx, key)
	if err != nil {
		return 0, err
	}
	return size, blob.Close()
}

// LinkCached makes a blob that some copy of the upstream's repositories holds part of
// another one, or returns ErrBlobUnknown. That the upstream has it there too is for the
// caller to know.
func (r *Registry) LinkCached(ctx context.Context, upstream, repository string, d digest.Digest) error {
	return r.database.Write(ctx, func(tx Tx) error {
		blob, _, found, err := findHolder(tx, d, func(h holder) bool { return h.upstream == upstream })
		if err != nil {
			return err
		}
		if !found {
			return blobUnknown(repository, d)
		}
		id, err := ensureRepository(tx, repository, upstream)
		if err != nil {
			return err
		}
		return r.hold(tx, id, blob)
	})
}
