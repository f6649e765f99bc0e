package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// Body is the content that a request sends.
type Body interface {
	io.Reader
	// Interrupt makes Read, which may be waiting for a client that is long gone, return
	// an error soon. It is called from another goroutine.
	Interrupt()
}

// uploadLock is held by the one request that works on an upload.
type uploadLock struct {
	body     Body
	released chan struct{}
}

// uploadWait is how long a request waits for another one to let go of an upload.
const uploadWait = 10 * time.Second

// lockUpload makes the caller the only one who works on an upload. A request that is
// still waiting for bytes is interrupted: a client that asks again has lost that
// connection, whether or not the server has noticed.
func (r *Registry) lockUpload(ctx context.Context, id string, body Body) (unlock func(), err error) {
	timeout := time.NewTimer(uploadWait)
	defer timeout.Stop()
	for {
		unlock, other := r.tryLockUpload(id, body)
		if other == nil {
			return unlock, nil
		}
		if other.body != nil {
			other.body.Interrupt()
		}
		select {
		case <-other.released:
		case <-timeout.C:
			return nil, fmt.Errorf("%w: another request is writing to it, try again", ErrUploadInvalid)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryLockUpload makes the caller the only one who works on an upload, or returns who
// else does.
func (r *Registry) tryLockUpload(id string, body Body) (unlock func(), other *uploadLock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.uploads[id]; other != nil {
		return nil, other
	}
	mine := &uploadLock{body: body, released: make(chan struct{})}
	r.uploads[id] = mine
	return func() {
		r.mu.Lock()
		delete(r.uploads, id)
		r.mu.Unlock()
		close(mine.released)
	}, nil
}

// StartUpload begins an upload to a repository and returns its id. It outlives the
// process.
func (r *Registry) StartUpload(ctx context.Context, repository string, algorithm digest.Algorithm) (string, error) {
	id := uuid.NewString()
	return id, r.recordUpload(ctx, repository, id, algorithm)
}

// recordUpload writes the fact that there is an upload, which is empty.
func (r *Registry) recordUpload(ctx context.Context, repository, id string, algorithm digest.Algorithm) error {
	return r.database.Write(ctx, func(tx Tx) error {
		at := now()
		_, err := tx.Exec(`
			INSERT INTO uploads (id, repository, algorithm, size, created, updated)
			VALUES ($1, $2, $3, 0, $4, $5)`, id, repository, algorithm.String(), at, at)
		return err
	})
}

// UploadSize returns how many bytes of an upload have arrived, or ErrUploadUnknown.
func (r *Registry) UploadSize(ctx context.Context, repository, id string) (int64, error) {
	unlock, err := r.lockUpload(ctx, id, nil)
	if err != nil {
		return 0, err
	}
	defer unlock()
	state, revision, err := r.uploadState(ctx, repository, id)
	if err != nil {
		return 0, err
	}
	w, err := r.blobs.Writer(ctx, id, state)
	if err != nil {
		return 0, err
	}
	if w.Size() == state.Size {
		_, err = w.Suspend()
		return w.Size(), err
	}
	// More arrived than anybody was told of. Now somebody is, and may go on from there.
	return w.Size(), r.suspendUpload(ctx, &upload{BlobWriter: w, id: id, recorded: true, revision: revision, retried: true})
}

// Chunk is a piece of an upload.
type Chunk struct {
	Body Body
	// Start is the offset of its first byte, which must be where the upload stands, else
	// ErrRangeInvalid. Negative: wherever that is.
	Start int64
	// Size is the most bytes that it may have; with more the upload is refused as
	// ErrSizeInvalid and gone. Negative: any.
	Size int64
	// Length is how many bytes it is said to have. Negative: nobody said.
	Length int64
}

// AppendUpload adds a chunk to an upload and returns how many bytes that has now, with
// ErrRangeInvalid too. What arrived of a chunk that broke off is kept.
func (r *Registry) AppendUpload(ctx context.Context, repository, id string, chunk Chunk) (int64, error) {
	u, unlock, err := r.receive(ctx, repository, id, chunk, "")
	if err != nil {
		return u.size(), err
	}
	defer unlock()
	return u.Size(), r.suspendUpload(ctx, u)
}

// FinishUpload adds the last chunk, which may be empty, and makes the upload the blob d
// of its repository. When it returns nil that is durable. With other bytes than d says
// it returns ErrDigestInvalid and the upload is gone. The size is that of AppendUpload.
func (r *Registry) FinishUpload(ctx context.Context, repository, id string, chunk Chunk, d digest.Digest) (int64, error) {
	u, unlock, err := r.receive(ctx, repository, id, chunk, d)
	if err != nil {
		return u.size(), err
	}
	defer unlock()
	return u.Size(), r.commitUpload(ctx, u, d, "", repository)
}

// newUpload returns the id of an upload of which there will be no fact before it ends. Its
// bytes are not taken for an orphan's until release is called.
func (r *Registry) newUpload() (id string, release func()) {
	id = uuid.NewString()
	release, _ = r.tryLockUpload(id, nil) // nobody else knows it
	return id, release
}

// PushBlob makes body the blob d of a repository in one step: nothing of it stays
// unless it returns nil.
func (r *Registry) PushBlob(ctx context.Context, repository string, body io.Reader, d digest.Digest) error {
	id, release := r.newUpload()
	defer release()
	defer r.beginPush(repository, id)()
	w, err := r.blobs.Writer(ctx, id, UploadState{Algorithm: d.Algorithm()})
	if err != nil {
		return err
	}
	u := &upload{BlobWriter: w, id: id}
	if r.Shared() {
		// How else would other processes know that something is being pushed?
		err = r.recordUpload(ctx, repository, id, d.Algorithm())
		u.recorded = err == nil
	}
	var left quotaLeft
	if err == nil {
		left, err = r.quotaLeft(ctx, repository, d)
	}
	if err == nil {
		err = copyBody(u, body, -1, left)
	}
	if err != nil {
		return errors.Join(err, r.dropUpload(ctx, u))
	}
	return r.commitUpload(ctx, u, d, "", repository)
}

// CancelUpload ends an upload and removes what arrived of it.
func (r *Registry) CancelUpload(ctx context.Context, repository, id string) error {
	unlock, err := r.lockUpload(ctx, id, nil)
	if err != nil {
		return err
	}
	defer unlock()
	if _, _, err := r.uploadState(ctx, repository, id); err != nil {
		return err
	}
	return errors.Join(r.forgetUpload(ctx, id), r.blobs.Discard(ctx, id))
}

// ExpireUploads cancels uploads to which nothing was added since before.
func (r *Registry) ExpireUploads(ctx context.Context, before time.Time) error {
	ids, err := scanStrings(r.database.Read(ctx).Query(`SELECT id FROM uploads WHERE updated < $1`, before.Unix()))
	if err != nil {
		return err
	}
	for _, id := range ids {
		unlock, other := r.tryLockUpload(id, nil)
		if other != nil {
			continue // something is being added
		}
		err := r.expireUpload(ctx, id, before)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// expireUpload cancels an upload unless something was added after all.
func (r *Registry) expireUpload(ctx context.Context, id string, before time.Time) error {
	var expired bool
	err := r.database.Write(ctx, func(tx Tx) error {
		result, err := tx.Exec(`DELETE FROM uploads WHERE id = $1 AND updated < $2`, id, before.Unix())
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		expired = n > 0
		return err
	})
	if err != nil || !expired {
		return err
	}
	return r.blobs.Discard(ctx, id)
}

// DiscardOrphans removes the bytes of uploads that no fact mentions: a crash leaves them, and
// in what a process gathers for itself also an upload that another one has finished.
func (r *Registry) DiscardOrphans(ctx context.Context) error {
	for id, err := range r.blobs.Uploads(ctx) {
		if err != nil {
			return err
		}
		if err := r.discardOrphan(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// discardOrphan does so unless a request works on the upload, whose fact may be to come.
func (r *Registry) discardOrphan(ctx context.Context, id string) error {
	unlock, other := r.tryLockUpload(id, nil)
	if other != nil {
		return nil
	}
	defer unlock()
	known, err := exists(r.database.Read(ctx).QueryRow(`SELECT 1 FROM uploads WHERE id = $1`, id))
	if err != nil || known {
		return err
	}
	if err := r.database.check(ctx); err != nil {
		return err
	}
	return r.blobs.Discard(ctx, id)
}

// uploadState returns what the facts know of an upload, or ErrUploadUnknown. The revision
// is told apart from what another process makes of it meanwhile.
func (r *Registry) uploadState(ctx context.Context, repository, id string) (s UploadState, revision int64, err error) {
	err = r.database.Read(ctx).QueryRow(`
		SELECT algorithm, size, hash, store_state, revision FROM uploads WHERE id = $1 AND repository = $2`, id, repository).
		Scan(&s.Algorithm, &s.Size, &s.Hash, &s.Store, &revision)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: it was never begun in %q, or is finished, cancelled or expired; begin a new one", ErrUploadUnknown, repository)
	}
	return s, revision, err
}

// upload is one that somebody goes on with.
type upload struct {
	BlobWriter
	id       string
	recorded bool  // there is a fact of it
	revision int64 // of that, from which it goes on
	shared   bool  // Suspend was called, and may have given others something of it
	retried  bool  // who sent a part of it may send the same again
}

// size is that of an upload that there may be none of.
func (u *upload) size() int64 {
	if u == nil {
		return 0
	}
	return u.Size()
}

// receive appends a chunk to an upload. With an error, what arrived is recorded or the
// upload is gone, and the lock is released; the writer is then only good for its size.
//
// The digest is that of the whole upload, empty if it is not known yet.
func (r *Registry) receive(ctx context.Context, repository, id string, chunk Chunk, d digest.Digest) (_ *upload, unlock func(), err error) {
	unlocked, err := r.lockUpload(ctx, id, chunk.Body)
	if err != nil {
		return nil, nil, err
	}
	pushed := r.beginPush(repository, id)
	release := func() {
		pushed()
		unlocked()
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	state, revision, err := r.uploadState(ctx, repository, id)
	if err != nil {
		return nil, nil, err
	}
	// What arrived before, and nobody was told of, is sent again.
	state.Exact = true
	w, err := r.blobs.Writer(ctx, id, state)
	if err != nil {
		return nil, nil, err
	}
	u := &upload{BlobWriter: w, id: id, recorded: true, revision: revision, shared: state.Size > 0, retried: true}
	if chunk.Start >= 0 && chunk.Start != w.Size() {
		err := fmt.Errorf("%w: it starts at %d but the upload has %d bytes", ErrRangeInvalid, chunk.Start, w.Size())
		return u, nil, errors.Join(err, r.suspendUpload(ctx, u))
	}
	if chunk.Body == nil {
		return u, release, nil
	}
	left, err := r.quotaLeft(ctx, repository, d)
	if err == nil {
		err = left.check(w.Size() + max(chunk.Length, 0))
	}
	if err == nil {
		err = copyBody(w, chunk.Body, chunk.Size, left)
	}
	switch {
	case err == nil:
		return u, release, nil
	case errors.Is(err, ErrFull), errors.Is(err, ErrSizeInvalid), errors.Is(err, ErrQuota):
		return u, nil, errors.Join(err, r.dropUpload(ctx, u))
	}
	return u, nil, errors.Join(err, r.suspendUpload(ctx, u))
}

// copyBody appends body to w. An error of body is the client's: ErrUploadInvalid, or
// ErrSizeInvalid if it has more than max bytes, or ErrQuota.
func copyBody(w BlobWriter, body io.Reader, max int64, left quotaLeft) error {
	client := &clientReader{Reader: body}
	source := left.reader(client, w.Size())
	if max >= 0 {
		source = io.LimitReader(source, max)
	}
	_, err := w.ReadFrom(source)
	if client.err != nil {
		return fmt.Errorf("%w: the request broke off, the upload has %d bytes: %w", ErrUploadInvalid, w.Size(), client.err)
	}
	if err != nil || max < 0 {
		return err
	}
	if n, _ := io.ReadFull(client, make([]byte, 1)); n > 0 {
		return fmt.Errorf("%w: more than the %d bytes of its range were sent", ErrSizeInvalid, max)
	}
	return nil
}

// clientReader remembers how reading failed, to tell it from how writing did.
type clientReader struct {
	io.Reader
	err error
}

func (c *clientReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// suspendUpload records where an upload stands. The client may be gone by then; what it
// sent is recorded all the same. What cannot be recorded for want of room is removed.
// ErrUploadInvalid: another process has gone on with it, and what that recorded stays.
func (r *Registry) suspendUpload(ctx context.Context, u *upload) error {
	state, err := u.Suspend()
	if errors.Is(err, ErrUnavailable) {
		if u.retried {
			err = errors.Join(err, u.Discard())
		}
		return err // the upload is where it was
	}
	if err != nil {
		// Bytes that could not be synced may get lost, whatever a later sync says.
		return errors.Join(err, r.dropUpload(ctx, u))
	}
	ctx = context.WithoutCancel(ctx)
	var recorded, known bool
	err = r.database.Write(ctx, func(tx Tx) error {
		result, err := tx.Exec(`
			UPDATE uploads SET size = $1, hash = $2, store_state = $3, updated = $4, revision = $5 + 1
			WHERE id = $6 AND revision = $5`, state.Size, state.Hash, state.Store, now(), u.revision, u.id)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if recorded = n > 0; recorded || err != nil {
			return err
		}
		known, err = exists(tx.QueryRow(`SELECT 1 FROM uploads WHERE id = $1`, u.id))
		return err
	})
	switch {
	case errors.Is(err, ErrFull):
		return errors.Join(err, r.dropUpload(ctx, u))
	case err != nil || recorded:
		return err
	case known:
		return fmt.Errorf("%w: another server goes on with it; ask where it stands", ErrUploadInvalid)
	}
	return errors.Join(fmt.Errorf("%w: it was ended meanwhile", ErrUploadUnknown), r.blobs.Discard(ctx, u.id))
}

// dropUpload ends an upload for good. What another process made of it meanwhile stays.
func (r *Registry) dropUpload(ctx context.Context, u *upload) error {
	// The bytes go first: a full disk may have no room for the fact that they are gone.
	err := u.Discard()
	if !u.recorded {
		return err
	}
	var dropped bool
	err = errors.Join(err, r.database.Write(context.WithoutCancel(ctx), func(tx Tx) error {
		result, err := tx.Exec(`DELETE FROM uploads WHERE id = $1 AND revision = $2`, u.id, u.revision)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		dropped = n > 0
		return err
	}))
	if !dropped || err != nil {
		return err
	}
	return r.blobs.Discard(ctx, u.id)
}

// failUpload ends an upload that could not become a blob, unless it may be that later.
func (r *Registry) failUpload(ctx context.Context, u *upload, err error) error {
	if u.retried && errors.Is(err, ErrUnavailable) {
		return errors.Join(err, u.Discard())
	}
	return errors.Join(err, r.dropUpload(ctx, u))
}

// discardUpload removes what is left of an upload that has become a blob.
func (r *Registry) discardUpload(ctx context.Context, u *upload) error {
	err := u.Discard()
	if u.shared {
		err = errors.Join(err, r.blobs.Discard(ctx, u.id))
	}
	return err
}

func (r *Registry) forgetUpload(ctx context.Context, id string) error {
	return r.database.Write(context.WithoutCancel(ctx), func(tx Tx) error {
		_, err := tx.Exec(`DELETE FROM uploads WHERE id = $1`, id)
		return err
	})
}
