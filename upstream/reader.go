package upstream

import (
	"context"
	"errors"
	"io"
)

// reader reads a blob that is being transferred, at its own pace. It is an [io.WriterTo]
// so that the kernel can copy what is on disk.
type reader struct {
	ctx      context.Context
	transfer *transfer
	file     io.ReadSeekCloser
	total    int64
	pos      int64
	rest     *stream // the connection of its own that a reader has if the disk is full
}

// reader returns a reader of a transfer that has begun.
func (t *transfer) reader(ctx context.Context) (*reader, error) {
	t.mu.Lock()
	fetch, total := t.fetch, t.total
	t.mu.Unlock()
	file, err := fetch.Open(ctx)
	if err != nil {
		return nil, err
	}
	return &reader{ctx: ctx, transfer: t, file: file, total: total}, nil
}

// more returns how many bytes the file has from the reader's position on: none at the
// end, and none if the rest is for its own connection to fetch.
func (r *reader) more() (int64, error) {
	if r.pos >= r.total {
		return 0, nil
	}
	readable, err := r.transfer.await(r.ctx, r.pos)
	if errors.Is(err, errOverflow) {
		if r.rest == nil {
			r.rest = newStream(r.ctx, r.transfer.blobSource, r.total, r.transfer.rest)
		}
		return 0, r.rest.seek(r.pos)
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
	return read, err
}

// WriteTo implements [io.WriterTo].
func (r *reader) WriteTo(w io.Writer) (written int64, err error) {
	for r.pos < r.total {
		n, err := r.more()
		if err != nil {
			return written, err
		}
		if n > 0 {
			n, err = io.Copy(w, r.file) // all that there is is right, or will be cut off
		} else {
			n, err = io.Copy(w, r.rest)
		}
		r.pos += n
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Seek implements [io.Seeker].
func (r *reader) Seek(offset int64, whence int) (int64, error) {
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
	if r.rest != nil {
		r.rest.Close()
	}
	return r.file.Close()
}
