package storage

import (
	"cmp"
	"context"
	"errors"
	"hash/crc32"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// errLate is what a commit is refused with whose bytes may be gone by now.
var errLate = errors.New("its bytes were written too long ago")

// isLate reports whether others may have swept up what was written since a time. Of the two
// clocks one stands still while the machine sleeps, and the other one can be set.
func isLate(began time.Time) bool {
	return max(time.Since(began), time.Now().Round(0).Sub(began.Round(0))) > MaxPending
}

// commitUpload makes an upload a blob of repositories, copies of the upstream's unless that
// is empty. With an error it is gone, but for ErrUnavailable of one that can be retried: that
// is where it was before this request.
func (r *Registry) commitUpload(ctx context.Context, u *upload, d digest.Digest, upstream string, repositories ...string) error {
	ctx = context.WithoutCancel(ctx)
	// Another upload of the same blob must not count on bytes that this one takes away.
	lock := r.committingLock(d)
	lock.Lock()
	defer lock.Unlock()
	began := time.Now()
	place, err := u.Commit(ctx, d)
	if err != nil {
		return r.failUpload(ctx, u, err)
	}
	key, spare := BlobKey{d, place}, ""
	err = r.database.Write(ctx, func(tx Tx) error {
		spare = "" // of a transaction that was undone
		if isLate(began) {
			return errLate // this process stood still, and others swept up meanwhile
		}
		for _, repository := range repositories {
			unused, err := r.addBlob(tx, repository, upstream, key, u.Size())
			if err != nil {
				return err
			}
			spare = cmp.Or(unused, spare)
		}
		_, err := tx.Exec(`DELETE FROM uploads WHERE id = $1`, u.id)
		return err
	})
	if err == nil {
		if spare != "" {
			// What stays takes room until it is swept up, and does no harm.
			_ = r.blobs.Delete(ctx, BlobKey{d, spare})
		}
		_ = r.discardUpload(ctx, u) // likewise
		return nil
	}
	refused := errors.Is(err, ErrFull) || errors.Is(err, ErrQuota)
	err = r.failUpload(ctx, u, err)
	if !refused {
		// Not all of a transaction that failed need be undone: if it was its sync that
		// failed, it may be found when the database is opened again, and the fact must not
		// lack its bytes then.
		return err
	}
	return errors.Join(err, r.discardUnknownBlob(ctx, key))
}

func (r *Registry) committingLock(d digest.Digest) *sync.Mutex {
	return &r.committing[crc32.ChecksumIEEE([]byte(d))%uint32(len(r.committing))]
}

// discardUnknownBlob removes the bytes of a blob for which no fact could be written, so
// that they do not fill a full disk.
func (r *Registry) discardUnknownBlob(ctx context.Context, key BlobKey) error {
	known, err := isKnown(r.database.Read(ctx), key)
	if err != nil || known {
		return err
	}
	return r.blobs.Delete(ctx, key)
}

// isKnown reports whether there is a fact of the bytes of a blob, be it of any place, or if
// the key has none, or is to be one.
func isKnown(q Querier, key BlobKey) (bool, error) {
	return exists(q.QueryRow(`
		SELECT 1 FROM blobs WHERE digest = $1 AND (place = $2 OR place = '' OR $2 = '')
		UNION ALL
		SELECT 1 FROM brought WHERE digest = $1 AND (place = $2 OR place = '' OR $2 = '')
		LIMIT 1`, key.Digest.String(), key.Place))
}

// removeBytes removes the bytes of a blob of which there is no fact, and reports whether
// it did: there may be one by now. What was begun is ended whoever has left, since such
// bytes take room until they are swept up.
func (r *Registry) removeBytes(ctx context.Context, key BlobKey) (bool, error) {
	ctx = context.WithoutCancel(ctx)
	lock := r.committingLock(key.Digest)
	lock.Lock()
	defer lock.Unlock()
	known, err := isKnown(r.database.Read(ctx), key)
	if err != nil || known {
		return false, err
	}
	if err := r.database.check(ctx); err != nil {
		return false, err
	}
	return true, r.blobs.Delete(ctx, key)
}
