package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// reader reads a blob that is being transferred, at its own pace, or one that only passes
// through. It is an [io.WriterTo] so that the kernel can copy what is on disk. It has no
// buffer: a client that does not read holds nothing but an open file.
type reader struct {
	ctx      context.Context
	cancel   context.CancelFunc
	transfer *transfer
	total    int64

	mu   sync.Mutex // net/http may be reading when it closes an answer of several ranges
	file io.ReadSeekCloser
	pos  int64
	rest *stream // the connection of its own that a reader has if the disk cannot take all
}

// reader returns a reader of a transfer that has begun.
func (t *transfer) reader(ctx context.Context, total int64) (*reader, error) {
	t.mu.Lock()
	partial := t.partial
	t.mu.Unlock()
	file, err := partial.Open(ctx)
	if err != nil {
		return nil, err
	}
	r := &reader{transfer: t, total: total, file: file}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r, nil
}

// passing returns a reader of a blob of which nothing is kept.
func (s *stream) passing(cancel context.CancelFunc) *reader {
	return &reader{ctx: s.ctx, cancel: cancel, total: s.total, rest: s}
}

// more returns how many bytes the file has from the reader's position on: none at the
// end, and none if the rest is for its own connection to fetch.
func (r *reader) more() (int64, error) {
	if r.pos >= r.total {
		return 0, nil
	}
	if r.transfer == nil {
		r.rest.seek(r.pos)
		return 0, nil
	}
	readable, err := r.transfer.await(r.ctx, r.pos)
	if errors.Is(err, errOverflow) {
		if r.rest == nil {
			r.rest = newStream(r.ctx, r.transfer.blobSource, r.total, r.transfer.rest)
		}
		r.rest.seek(r.pos)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if _, err := r.file.Seek(r.pos, io.SeekStart); err != nil {
		return 0, err
	}
	return readable - r.pos, nil
}

// Read implements [io.Reader].
func (r *reader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.more()
	if err != nil {
		return 0, err
	}
	var read int
	switch {
	case n > 0:
		read, err = r.file.Read(p[:min(int64(len(p)), n)])
	case r.pos >= r.total:
		return 0, io.EOF
	default:
		read, err = r.rest.Read(p)
	}
	r.pos += int64(read)
	return read, unexpected(err)
}

// unexpected returns err unless it says that something has ended, which it has not.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// WriteTo implements [io.WriterTo].
func (r *reader) WriteTo(w io.Writer) (written int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.pos < r.total {
		if r.transfer == nil || !r.transfer.has(r.pos) {
			flush(w)
		}
		n, err := r.more()
		if err != nil {
			return written, err
		}
		if n > 0 {
			n, err = io.Copy(w, r.file) // to its end: it has only what clients may have
		} else {
			n, err = io.Copy(w, r.rest)
		}
		r.pos += n
		written += n
		if err != nil {
			return written, unexpected(err)
		}
	}
	return written, nil
}

// flush sends what a response holds back until there is more of it, since that may take
// the upstream a while. An error is one of the next write too.
func flush(w io.Writer) {
	if response, ok := w.(http.ResponseWriter); ok {
		_ = http.NewResponseController(response).Flush()
	}
}

// Seek implements [io.Seeker].
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.total
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of a blob")
	}
	r.pos = offset
	return offset, nil
}

// Close implements [io.Closer].
func (r *reader) Close() error {
	r.cancel() // a Read that waits holds the lock
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rest != nil {
		r.rest.Close()
	}
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// Interface guards
var (
	_ io.ReadSeekCloser = (*reader)(nil)
	_ io.WriterTo       = (*reader)(nil)
)
