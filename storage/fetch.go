package storage

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// Fetch is a blob on its way from an upstream. It is an upload that no client sees: what
// has arrived can be read while the rest comes, and outlives the process, but it is in
// no repository until it is committed. It is ended by one of Commit, Suspend, Abandon and
// Discard.
type Fetch struct {
	registry *Registry
	id       string
	key      string // the upstream and the digest
	digest   digest.Digest
	writer   BlobWriter
	revision int64 // of the fact that it goes on from
	shared   bool  // others may know of what arrived before
	unlock   func()
	known    bool       // a fact says that there is the fetch
	recorded chan error // gets how it went to write that fact; nil if nobody does
}

// BeginFetch goes on with what has arrived of blob d from an upstream, or begins anew.
// The caller sees to it that there is one Fetch of a blob and an upstream at a time in this
// process. If others fetch it too, each of them does for itself.
func (r *Registry) BeginFetch(ctx context.Context, upstream string, d digest.Digest) (*Fetch, error) {
	f := &Fetch{registry: r, key: upstream + " " + d.String(), digest: d}
	for {
		id, _, _, err := r.fetchState(ctx, f.key)
		if err != nil {
			return nil, err
		}
		f.id, f.known = id, id != ""
		if !f.known {
			f.id = uuid.NewString()
		}
		// It may be about to expire; then it is begun anew.
		if f.unlock, err = r.lockUpload(ctx, f.id, nil); err != nil {
			return nil, err
		}
		now, state, revision, err := r.fetchState(ctx, f.key)
		if err == nil && now == id {
			state.Algorithm, f.revision, f.shared = d.Algorithm(), revision, state.Size > 0
			if f.writer, err = r.fetchWriter(ctx, f.id, state); err == nil {
				return f, nil
			}
		}
		f.unlock()
		if err != nil {
			return nil, err
		}
	}
}

// fetchState returns the upload that a fetch is, by the facts, or no id.
func (r *Registry) fetchState(ctx context.Context, key string) (id string, state UploadState, revision int64, err error) {
	err = r.database.Read(ctx).QueryRow(`SELECT id, size, hash, store_state, revision FROM uploads WHERE "fetch" = $1`, key).
		Scan(&id, &state.Size, &state.Hash, &state.Store, &revision)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return id, state, revision, err
}

// fetchWriter goes on from state, or from whatever the bytes are if that is of no use.
func (r *Registry) fetchWriter(ctx context.Context, id string, state UploadState) (BlobWriter, error) {
	w, err := r.blobs.Writer(ctx, id, state)
	if err != nil && state.Size > 0 && !errors.Is(err, ErrFull) {
		return r.blobs.Writer(ctx, id, UploadState{Algorithm: state.Algorithm})
	}
	return w, err
}

// record writes the fact by which a later process finds the bytes. Nobody waits for that
// before they are passed on.
func (f *Fetch) record() {
	if f.known || f.recorded != nil {
		return
	}
	f.recorded = make(chan error, 1)
	go func() {
		f.recorded <- f.registry.database.Write(context.Background(), func(tx Tx) error {
			at := now()
			_, err := tx.Exec(`
				INSERT INTO uploads (id, repository, algorithm, size, created, updated, "fetch")
				VALUES ($1, '', $2, 0, $3, $4, $5) ON CONFLICT ("fetch") WHERE "fetch" IS NOT NULL DO NOTHING`, f.id, f.digest.Algorithm().String(), at, at, f.key)
			return err
		})
	}()
}

// awaitRecord returns once the fact is written, or why it is not.
func (f *Fetch) awaitRecord() error {
	if f.recorded == nil {
		return nil
	}
	err := <-f.recorded
	f.known, f.recorded = err == nil, nil
	return err
}

// upload is what it is whose fact is written.
func (f *Fetch) upload() *upload {
	return &upload{BlobWriter: f.writer, id: f.id, recorded: f.known, revision: f.revision, shared: f.shared}
}

// forget removes the fact.
func (f *Fetch) forget(ctx context.Context) error {
	if err := f.awaitRecord(); err != nil || !f.known {
		return err
	}
	return f.registry.forgetUpload(ctx, f.id)
}

// ReadFrom implements [io.ReaderFrom], as [BlobWriter] does.
func (f *Fetch) ReadFrom(r io.Reader) (int64, error) {
	f.record()
	return f.writer.ReadFrom(r)
}

// Size returns how many bytes have arrived.
func (f *Fetch) Size() int64 { return f.writer.Size() }

// Open returns a reader of what has arrived, and will. It stays readable when the Fetch
// has ended.
func (f *Fetch) Open(ctx context.Context) (io.ReadSeekCloser, error) {
	partial, err := f.registry.blobs.OpenUpload(ctx, f.id)
	if errors.Is(err, ErrUploadUnknown) {
		return f.registry.OpenBytes(ctx, f.digest) // it was committed meanwhile
	}
	return partial, err
}

// Verify returns ErrDigestInvalid if what has arrived, and then rest, is not the blob.
func (f *Fetch) Verify(rest []byte) error { return f.writer.Verify(f.digest, rest) }

// Commit makes what has arrived a blob of repositories that are copies of the upstream's.
// With an error it is gone.
func (f *Fetch) Commit(ctx context.Context, upstream string, repositories []string) error {
	defer f.unlock()
	if err := f.awaitRecord(); err != nil {
		return errors.Join(err, f.writer.Discard())
	}
	return f.registry.commitUpload(ctx, f.upload(), f.digest, upstream, repositories...)
}

// Suspend keeps what has arrived, if that is anything, for BeginFetch to go on with.
func (f *Fetch) Suspend(ctx context.Context) error {
	if f.Size() == 0 {
		return f.Discard(ctx)
	}
	defer f.unlock()
	if err := f.awaitRecord(); err != nil {
		return errors.Join(err, f.writer.Discard())
	}
	err := f.registry.suspendUpload(ctx, f.upload())
	if errors.Is(err, ErrUploadInvalid) || errors.Is(err, ErrUploadUnknown) {
		return nil // another process goes on with it, or has all of it
	}
	return err
}

// Abandon removes what has arrived, and returns the state of its hash, for who goes on
// without the disk. With an error there may be no hash.
func (f *Fetch) Abandon(ctx context.Context) (UploadState, error) {
	defer f.unlock()
	state, err := f.writer.Suspend()
	err = errors.Join(err, f.registry.blobs.Discard(ctx, f.id))
	// A fact that cannot be removed, for want of room perhaps, does no harm: it expires.
	_ = f.forget(ctx)
	return state, err
}

// Discard removes what has arrived.
func (f *Fetch) Discard(ctx context.Context) error {
	defer f.unlock()
	if err := errors.Join(f.writer.Discard(), f.awaitRecord()); err != nil {
		return err
	}
	return f.registry.dropUpload(ctx, f.upload())
}

// DiscardFetches removes what arrived of blobs whose fetches were suspended.
func (r *Registry) DiscardFetches(ctx context.Context) error {
	ids, err := scanStrings(r.database.Read(ctx).Query(`SELECT id FROM uploads WHERE "fetch" IS NOT NULL`))
	if err != nil {
		return err
	}
	for _, id := range ids {
		unlock, other := r.tryLockUpload(id, nil)
		if other != nil {
			continue // more is arriving
		}
		err := r.expireUpload(ctx, id, time.Now().Add(time.Hour))
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
