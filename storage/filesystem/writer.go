package filesystem

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// writer is a [storage.BlobWriter] of a file in uploads.
type writer struct {
	store     *Store
	id        string
	file      File // nil once it is closed
	algorithm digest.Algorithm
	hash      hash.Hash // of all bytes of the file
	size      int64
	unsynced  bool  // bytes may be there that a loss of power takes
	started   int64 // the disk was set to work up to here
	reserved  int64 // room was made up to here
}

// resume brings the hash to the end of the file, from where state says if it can. What the
// state does not want is cut off.
func (w *writer) resume(state storage.UploadState) error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if state.Exact && size > state.Size {
		size = state.Size
		if err := w.file.Truncate(size); err != nil {
			return err
		}
	}
	w.hash = w.algorithm.Hash()
	if state.Size > 0 && state.Size <= size {
		if err := w.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state.Hash); err != nil {
			return fmt.Errorf("hash of upload %s: %w", w.id, err)
		}
		w.size = state.Size
	}
	if _, err := w.file.Seek(w.size, io.SeekStart); err != nil {
		return err
	}
	if w.size == size {
		return nil
	}
	w.unsynced = true
	n, err := io.Copy(w.hash, w.file)
	w.size += n
	return err
}

// bufferSize is what is read, written and hashed at a time. With more, what was read
// leaves the processor's cache before it is hashed.
const bufferSize = 128 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// ReadFrom implements [io.ReaderFrom].
func (w *writer) ReadFrom(r io.Reader) (total int64, err error) {
	var hashing hashing
	defer hashing.wait()
	w.started = w.size
	for {
		buf := buffers.Get().(*[bufferSize]byte)
		n, readErr := r.Read(buf[:])
		written, err := w.write(buf[:n])
		total += int64(written)
		if readErr == nil && err == nil {
			hashing.add(w.hash, buf, written)
			continue
		}
		hashing.wait()
		w.hash.Write(buf[:written])
		buffers.Put(buf)
		switch {
		case err != nil:
			return total, diskError(err)
		case readErr == io.EOF:
			return total, nil
		default:
			return total, readErr
		}
	}
}

// hashing is done beside the writes, which take twice as long, by a goroutine that is
// only there for an upload of more than one buffer.
type hashing struct {
	pieces chan piece
	done   chan struct{}
}

type piece struct {
	buf *[bufferSize]byte
	n   int
}

// add has a piece hashed, and takes its buffer. It waits if the goroutine is behind.
func (h *hashing) add(hash hash.Hash, buf *[bufferSize]byte, n int) {
	if h.pieces == nil {
		h.pieces = make(chan piece, 2)
		h.done = make(chan struct{})
		go func() {
			defer close(h.done)
			for p := range h.pieces {
				hash.Write(p.buf[:p.n])
				buffers.Put(p.buf)
			}
		}()
	}
	h.pieces <- piece{buf, n}
}

// wait returns when all is hashed.
func (h *hashing) wait() {
	if h.pieces == nil {
		return
	}
	close(h.pieces)
	<-h.done
	h.pieces = nil
}

const (
	// writebackSize is how much is written before the disk is set to work on it.
	writebackSize = 4 << 20
	// maxReserve is how much room is kept for what has not arrived.
	maxReserve = 64 << 20
)

// write adds to the file, and leaves the hash to its caller.
func (w *writer) write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	// No more is reserved than came, so that small uploads do not fill a disk.
	if w.size >= writebackSize && w.size+int64(len(p)) > w.reserved {
		n := min(w.size, maxReserve)
		reserve(w.file, w.size, n)
		w.reserved = w.size + n
	}
	w.unsynced = true
	n, err := w.file.Write(p)
	w.size += int64(n)
	if n := w.size - w.started; n >= writebackSize {
		startWriteback(w.file, w.started, n)
		w.started = w.size
	}
	return n, err
}

// release gives back what is reserved for bytes that did not come.
func (w *writer) release() {
	if w.reserved > w.size {
		release(w.file, w.size)
	}
	w.reserved = 0
}

func (w *writer) Size() int64 { return w.size }

func (w *writer) Verify(d digest.Digest, rest []byte) error {
	h, err := w.hashed(d.Algorithm())
	if err != nil {
		return err
	}
	h.Write(rest)
	if sum := digest.NewDigest(d.Algorithm(), h); sum != d {
		return fmt.Errorf("%w: the %d bytes that arrived have digest %s, not %s", storage.ErrDigestInvalid, w.size+int64(len(rest)), sum, d)
	}
	return nil
}

func (w *writer) Commit(_ context.Context, d digest.Digest) (place string, err error) {
	if err := w.Verify(d, nil); err != nil {
		return "", err
	}
	w.release()
	if err := w.file.Sync(); err != nil {
		return "", diskError(err)
	}
	if err := w.close(); err != nil {
		return "", diskError(err)
	}
	return "", diskError(w.store.publish(w.id, d))
}

// hashed returns a hash of the whole upload, which is read again if it was hashed by
// another algorithm: clients need not say at the start which one they will use.
func (w *writer) hashed(algorithm digest.Algorithm) (hash.Hash, error) {
	if algorithm == w.algorithm {
		return w.hash.(hash.Cloner).Clone()
	}
	if _, err := w.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	h := algorithm.Hash()
	_, err := io.Copy(h, w.file)
	return h, err
}

// Suspend syncs what was written: a loss of power may leave a file its length and other
// bytes, and the hash, which is then recorded, would vouch for those that were there.
func (w *writer) Suspend() (storage.UploadState, error) {
	state := storage.UploadState{Algorithm: w.algorithm, Size: w.size}
	var err error
	w.release()
	if w.unsynced {
		err = diskError(w.file.Sync())
	}
	if w.size > 0 && err == nil {
		state.Hash, err = w.hash.(encoding.BinaryMarshaler).MarshalBinary()
	}
	return state, errors.Join(err, w.close())
}

func (w *writer) Discard() error {
	return errors.Join(w.close(), w.store.Discard(context.Background(), w.id))
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}

// Interface guard
var _ storage.BlobWriter = (*writer)(nil)
