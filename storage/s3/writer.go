package s3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// writer gathers an upload in the spool.
type writer struct {
	storage.BlobWriter // of the spool
	store              *Store
	ctx                context.Context // for what no caller gives one
	id                 string
	algorithm          digest.Algorithm
	paused             paused
}

// paused is what of an upload is in the bucket.
type paused struct {
	// Process tells whose spool has it too.
	Process string `json:"process"`
	// Parts are objects, one after the other.
	Parts []part `json:"parts"`
}

type part struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
	// Place tells it from what another process makes of the same bytes.
	Place string `json:"place"`
}

func (p *paused) size() int64 {
	if len(p.Parts) == 0 {
		return 0
	}
	last := p.Parts[len(p.Parts)-1]
	return last.Offset + last.Size
}

// Writer implements [storage.BlobStore]. What another process has gathered is fetched from
// the bucket.
func (s *Store) Writer(ctx context.Context, id string, state storage.UploadState) (storage.BlobWriter, error) {
	w := &writer{store: s, ctx: context.WithoutCancel(ctx), id: id, algorithm: state.Algorithm}
	if len(state.Store) > 0 {
		if err := json.Unmarshal(state.Store, &w.paused); err != nil {
			return nil, fmt.Errorf("state of the upload: %w", err)
		}
	}
	var err error
	if state.Size == 0 || w.paused.Process == s.process {
		state.Store = nil
		w.BlobWriter, err = s.spool.Writer(ctx, id, state)
		if !errors.Is(err, storage.ErrUploadUnknown) || w.paused.size() == 0 {
			return w, err
		}
	}
	if err := s.spool.Discard(ctx, id); err != nil {
		return nil, err
	}
	if w.BlobWriter, err = s.spool.Writer(ctx, id, storage.UploadState{Algorithm: state.Algorithm}); err != nil {
		return nil, err
	}
	if err := w.fetch(ctx); err != nil {
		return nil, errors.Join(err, w.BlobWriter.Discard())
	}
	return w, nil
}

// fetch fills the spool with what is in the bucket.
func (w *writer) fetch(ctx context.Context) error {
	for _, p := range w.paused.Parts {
		name := w.partName(p)
		output, err := w.store.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &w.store.options.Bucket, Key: &name})
		if isAbsent(err) {
			return fmt.Errorf("%w: its bytes are gone, begin a new one", storage.ErrUploadUnknown)
		}
		if err != nil {
			return explain(err)
		}
		n, err := w.BlobWriter.ReadFrom(output.Body)
		_ = output.Body.Close() // all that matters of it was read
		if err != nil {
			return explain(err)
		}
		if n != p.Size {
			return fmt.Errorf("%s has %d bytes, not %d", name, n, p.Size)
		}
	}
	return nil
}

func (w *writer) partName(p part) string {
	return w.store.uploadPrefix(w.id) + fmt.Sprintf("%020d/", p.Offset) + p.Place
}

// send makes what the spool has from an offset on an object. Whatever the service says to
// that, the bytes are not wrong, and may be sent again later.
func (w *writer) send(ctx context.Context, name string, offset, size int64) error {
	spooled, err := w.store.spool.OpenUpload(ctx, w.id)
	if err != nil {
		return err
	}
	defer spooled.Close()
	if _, err := spooled.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	// Parts of a file are sent from where they are, without being gathered in memory.
	var body io.Reader = io.LimitReader(spooled, size)
	if at, ok := spooled.(io.ReaderAt); ok {
		body = io.NewSectionReader(at, offset, size)
	}
	err = w.store.put(ctx, name, body)
	if err != nil && !errors.Is(err, storage.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return err
}

// Commit implements [storage.BlobWriter].
func (w *writer) Commit(ctx context.Context, d digest.Digest) (string, error) {
	if err := w.Verify(d, nil); err != nil {
		return "", err
	}
	place := newPlace()
	if err := w.send(ctx, w.store.blobKey(storage.BlobKey{Digest: d, Place: place}), 0, w.Size()); err != nil {
		return "", err
	}
	return place, nil
}

// Suspend implements [storage.BlobWriter].
func (w *writer) Suspend() (storage.UploadState, error) {
	state, err := w.BlobWriter.Suspend()
	if err != nil {
		return state, err
	}
	if from := w.paused.size(); state.Size > from {
		p := part{from, state.Size - from, newPlace()}
		if err := w.send(w.ctx, w.partName(p), p.Offset, p.Size); err != nil {
			return state, err
		}
		w.paused.Parts = append(w.paused.Parts, p)
	}
	w.paused.Process = w.store.process
	state.Store, err = json.Marshal(w.paused)
	return state, err
}
