package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
)

// Fetch is a blob on its way from an upstream. It is an upload that no client sees: what
// has arrived can be read while the rest comes, and outlives the process, but it is in
// no repository until it is committed. It is ended by one of Commit, Suspend and Discard.
type Fetch struct {
	registry *Registry
	id       string
	digest   digest.Digest
	writer   BlobWriter
	unlock   func()
	// recorded returns when the fact is written by which a later process finds the bytes.
	// Nobody waits for that before the first byte arrives.
	recorded func() error
}

// BeginFetch goes on with what has arrived of blob d from an upstream, or begins anew.
// There may be one Fetch of a blob and an upstream at a time.
func (r *Registry) BeginFetch(ctx context.Context, upstream string, d digest.Digest) (_ *Fetch, err error) {
	key := upstream + " " + d.String()
	state := UploadState{Algorithm: d.Algorithm()}
	var id string
	err = r.database.Read(ctx).QueryRow(`SELECT id, size, hash, store_state FROM uploads WHERE fetch = $1`, key).
		Scan(&id, &state.Size, &state.Hash, &state.Store)
	known := err == nil
	if errors.Is(err, sql.ErrNoRows) {
		id, err = uuid.NewString(), nil
	}
	if err != nil {
		return nil, err
	}
	unlock, other := r.tryLockUpload(id, nil)
	if other != nil {
		return nil, fmt.Errorf("%w: %s is being fetched or removed", ErrUploadInvalid, d)
	}
	w, err := r.blobs.Writer(ctx, id, state)
	if errors.Is(err, ErrUploadUnknown) { // its bytes are gone
		state = UploadState{Algorithm: d.Algorithm()}
		w, err = r.blobs.Writer(ctx, id, state)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	f := &Fetch{registry: r, id: id, digest: d, writer: w, unlock: unlock, recorded: func() error { return nil }}
	if !known {
		f.recorded = r.recordFetch(context.WithoutCancel(ctx), id, key, d.Algorithm())
	}
	return f, nil
}

func (r *Registry) recordFetch(ctx context.Context, id, key string, algorithm digest.Algorithm) (wait func() error) {
	done := make(chan error, 1)
	go func() {
		done <- r.database.Write(ctx, func(tx Tx) error {
			at := now()
			_, err := tx.Exec(`
				INSERT INTO uploads (id, repository, algorithm, size, created, updated, fetch)
				VALUES ($1, '', $2, 0, $3, $4, $5)`, id, algorithm.String(), at, at, key)
			return err
		})
	}()
	return sync.OnceValue(func() error { return <-done })
}

// ReadFrom implements [io.ReaderFrom], as [BlobWriter] does.
func (f *Fetch) ReadFrom(r io.Reader) (int64, error) { return f.writer.ReadFrom(r) }

// Size returns how many bytes have arrived.
func (f *Fetch) Size() int64 { return f.writer.Size() }

// Open returns a reader of what has arrived, and will. It stays readable when the Fetch
// has ended.
func (f *Fetch) Open(ctx context.Context) (io.ReadSeekCloser, error) {
	partial, err := f.registry.blobs.OpenUpload(ctx, f.id)
	if errors.Is(err, ErrUploadUnknown) {
		return f.registry.blobs.Open(ctx, f.digest) // it was committed meanwhile
	}
	return partial, err
}

// Verify returns ErrDigestInvalid if what has arrived, and then rest, is not the blob.
func (f *Fetch) Verify(rest []byte) error { return f.writer.Verify(f.digest, rest) }

// Commit makes what has arrived a blob of repositories that are copies of the upstream's.
// With an error it is gone.
func (f *Fetch) Commit(ctx context.Context, upstream string, repositories []string) error {
	defer f.unlock()
	if err := f.recorded(); err != nil {
		return errors.Join(err, f.writer.Discard())
	}
	return f.registry.commitUpload(ctx, f.id, f.writer, f.digest, func(tx Tx) error {
		for _, repository := range repositories {
			if err := addBlob(tx, repository, upstream, f.digest, f.writer.Size()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Suspend keeps what has arrived, for BeginFetch to go on with.
func (f *Fetch) Suspend(ctx context.Context) error {
	defer f.unlock()
	if err := f.recorded(); err != nil {
		return errors.Join(err, f.writer.Discard())
	}
	return f.registry.suspendUpload(ctx, f.id, f.writer)
}

// Abandon removes what has arrived, and returns the state of its hash, for who goes on
// without the disk.
func (f *Fetch) Abandon(ctx context.Context) (UploadState, error) {
	defer f.unlock()
	state, err := f.writer.Suspend()
	err = errors.Join(err, f.registry.blobs.Discard(ctx, f.id))
	// A fact that cannot be removed, for want of room perhaps, does no harm: it expires.
	_ = f.recorded()
	_ = f.registry.forgetUpload(ctx, f.id)
	return state, err
}

// Discard removes what has arrived.
func (f *Fetch) Discard(ctx context.Context) error {
	defer f.unlock()
	return errors.Join(f.recorded(), f.writer.Discard(), f.registry.forgetUpload(ctx, f.id))
}
