package upstream

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/eblume/caddy-registry/storage"
)

// transfer is one blob that fills a partial file, from which all who want it read.
type transfer struct {
	blobSource
	begun chan struct{} // closed when the size is known, or that there is nothing
	ended chan struct{}

	reserved int64 // bytes of the cache's room; for who runs the transfer

	mu           sync.Mutex
	partial      *storage.Fetch
	repositories []string      // copies that the blob becomes part of
	closed       bool          // no more of them
	changed      chan struct{} // closed when any of the following change
	total        int64         // -1 while it is not known
	readable     int64         // bytes that may be given to clients
	err          error         // why no more come
	rest         storage.UploadState
}

func newTransfer(source blobSource) *transfer {
	return &transfer{
		blobSource:   source,
		begun:        make(chan struct{}),
		ended:        make(chan struct{}),
		repositories: []string{source.repository},
		changed:      make(chan struct{}),
		total:        -1,
	}
}

// isFor reports whether a repository may read a transfer that goes well.
func (t *transfer) isFor(repository string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err == nil && slices.Contains(t.repositories, repository)
}

// add makes the blob part of one more repository, unless it is too late.
func (t *transfer) add(repository string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil || t.closed {
		return false
	}
	if !slices.Contains(t.repositories, repository) {
		t.repositories = append(t.repositories, repository)
	}
	return true
}

// hasFailed reports whether no more bytes come.
func (t *transfer) hasFailed() bool {
	_, err := t.outcome()
	return err != nil
}

// outcome returns the size of a blob, -1 if that is not known, and why it does not arrive.
func (t *transfer) outcome() (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total, t.err
}

// awaitBegin returns the size of a blob once it begins to arrive, or why it does not.
func (t *transfer) awaitBegin(ctx context.Context) (int64, error) {
	select {
	case <-t.begun:
		return t.outcome()
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

// awaitEnd returns errEnded once the transfer of the blob can be begun again.
func (t *transfer) awaitEnd(ctx context.Context) error {
	select {
	case <-t.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await returns how many bytes can be read, which is more than pos unless there is an
// error or the end.
func (t *transfer) await(ctx context.Context, pos int64) (int64, error) {
	for {
		t.mu.Lock()
		readable, total, changed, err := t.readable, t.total, t.changed, t.err
		t.mu.Unlock()
		switch {
		case readable > pos || total >= 0 && readable == total:
			return readable, nil
		case err != nil:
			return readable, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return readable, ctx.Err()
		}
	}
}

// has reports whether a byte can be read without waiting for it.
func (t *transfer) has(pos int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.readable > pos
}

// change changes what readers wait for.
func (t *transfer) change(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.changed)
	t.changed = make(chan struct{})
}

// begin tells readers that there is a blob, of so many bytes.
func (t *transfer) begin(total int64) {
	t.change(func() { t.total = total })
	t.setBegun()
}

// setBegun is called by who runs the transfer only.
func (t *transfer) setBegun() {
	if !t.hasBegun() {
		close(t.begun)
	}
}

func (t *transfer) hasBegun() bool {
	select {
	case <-t.begun:
		return true
	default:
		return false
	}
}

// arrived tells readers that the partial file has n bytes. The last one is kept back
// until all of them are known to be right.
func (t *transfer) arrived(n int64) {
	t.change(func() { t.readable = max(t.readable, min(n, t.total-1)) })
}

// complete gives readers all that has arrived, and returns the repositories that the blob
// becomes part of, to which none is added any more. Readers who were told another size,
// as the upstream did, cannot use it.
func (t *transfer) complete(size int64) []string {
	t.change(func() {
		t.closed = true
		if t.total >= 0 && t.total != size {
			t.err = fmt.Errorf("%w: %s said that %s has %d bytes, it has %d", ErrInvalid, t.upstream, t.digest, t.total, size)
			return
		}
		t.total, t.readable = size, size
	})
	t.setBegun()
	return t.repositories
}

// leave tells readers from where on the rest is theirs to ask for, once the transfer has
// failed.
func (t *transfer) leave(rest storage.UploadState) {
	t.change(func() {
		t.rest = rest
		t.readable = max(t.readable, min(rest.Size, t.total-1))
	})
}

// fail ends a transfer for its readers.
func (t *transfer) fail(err error) {
	t.change(func() { t.err = err })
	t.setBegun()
}
