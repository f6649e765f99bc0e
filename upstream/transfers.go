package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// Transfers are the blobs on their way from upstreams. They outlive the requests and the
// configurations that began them: a client that leaves stops nothing.
type Transfers struct {
	registry *storage.Registry
	log      *slog.Logger
	stop     context.Context // ends when the transfers are to be suspended
	cancel   context.CancelCauseFunc
	running  sync.WaitGroup

	reserving sync.Mutex // held while room is made, so that no two take the same
	reserved  int64      // bytes of the blobs on their way to caches of limited size

	mu     sync.Mutex // also held by Close, so that nothing begins after it
	active map[blobKey]*transfer
	// suspect tells how many URLs to pass over for blobs that did not match their digest.
	suspect *lru.Cache[blobKey, int]
}

// blobKey is a blob of an upstream, of whichever of its repositories.
type blobKey struct {
	upstream string
	digest   digest.Digest
}

const maxSuspects = 1000

var (
	// errStopped is what all that is asked of upstreams ends with on Close.
	errStopped = fmt.Errorf("%w: the registry is being closed", ErrUnavailable)
	// errEnded says that a transfer ended before it could be joined: storage may have the
	// blob by now.
	errEnded = fmt.Errorf("%w: the transfer has ended", ErrUnavailable)
	// errOverflow ends a transfer for which the disk has no room, or which it fails to
	// take. Each reader asks for the rest itself.
	errOverflow = errors.New("the disk cannot take the rest")
	// errSpoilt ends a transfer whose bytes are not the blob.
	errSpoilt = fmt.Errorf("%w: wrong bytes", ErrInvalid)
)

// NewTransfers returns transfers into a registry.
func NewTransfers(registry *storage.Registry, log *slog.Logger) *Transfers {
	stop, cancel := context.WithCancelCause(context.Background())
	return &Transfers{
		registry: registry,
		log:      log,
		stop:     stop,
		cancel:   cancel,
		active:   make(map[blobKey]*transfer),
		suspect:  newLRU[blobKey, int](maxSuspects),
	}
}

// Close suspends all transfers, and ends what else is asked of upstreams for clients that
// may be gone. A later process goes on with what has arrived.
func (ts *Transfers) Close() {
	ts.mu.Lock()
	ts.cancel(errStopped)
	ts.mu.Unlock()
	ts.running.Wait()
}

// outlive returns a context with the values of a request's that goes on when the request
// ends, but not after Close, which waits until done is called.
func (ts *Transfers) outlive(request context.Context) (_ context.Context, done func(), err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.stop.Err() != nil {
		return nil, nil, errStopped
	}
	ts.running.Add(1)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(request))
	unhook := context.AfterFunc(ts.stop, func() { cancel(errStopped) })
	return ctx, func() {
		unhook()
		cancel(nil)
		ts.running.Done()
	}, nil
}

// join returns the transfer of a blob, which is begun if need be. One that was begun for
// another repository is joined only if known tells that the upstream has the blob there
// too.
func (ts *Transfers) join(ctx context.Context, source blobSource, known func() error) (*transfer, error) {
	t, begun, err := ts.find(ctx, source)
	if err != nil || begun || t.isFor(source.repository) {
		return t, err
	}
	if !t.hasFailed() {
		if err := known(); err != nil {
			return nil, err
		}
		if t.add(source.repository) {
			return t, nil
		}
	}
	return nil, t.awaitEnd(ctx)
}

// find returns the transfer of a blob, and whether it was begun just now, or errEnded if
// one has left the blob in storage since the caller looked there.
func (ts *Transfers) find(ctx context.Context, source blobSource) (_ *transfer, begun bool, err error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.stop.Err() != nil {
		return nil, false, errStopped
	}
	t := ts.active[source.key()]
	if t != nil {
		return t, false, nil
	}
	if _, err := ts.registry.CachedBlob(ctx, source.upstream, source.digest); err == nil {
		return nil, false, errEnded
	}
	t = newTransfer(source)
	ts.active[source.key()] = t
	ts.running.Go(func() { ts.run(t) })
	return t, true, nil
}

// run fetches the blob and makes it part of its repositories.
func (ts *Transfers) run(t *transfer) {
	t.meter.transfers(+1)
	defer t.meter.transfers(-1)
	if err := ts.fetch(t); err != nil {
		t.fail(err)
		// What did not match its digest is told where that is found.
		if !errors.Is(err, errStopped) && !errors.Is(err, errSpoilt) {
			ts.log.Warn("transfer failed", "upstream", t.upstream, "repository", t.remote, "blob", t.digest, "error", err)
		}
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.active, t.key())
	close(t.ended)
}

func (ts *Transfers) fetch(t *transfer) error {
	fetch, err := ts.registry.BeginFetch(ts.stop, t.upstream, t.digest)
	if err != nil {
		return ts.unlessStopped(fmt.Errorf("%w: %w", errOverflow, err))
	}
	t.change(func() { t.partial = fetch })
	defer ts.release(t)
	err = ts.receive(ts.stop, t, fetch)
	// What was begun is ended, also when all is.
	ctx := context.WithoutCancel(ts.stop)
	var failed error
	switch {
	case err == nil:
		ts.keep(ctx, t, fetch)
	case errors.Is(err, errOverflow):
		var rest storage.UploadState
		rest, failed = fetch.Abandon(ctx)
		t.leave(rest)
	case errors.Is(err, errSpoilt):
		ts.mismatched(t.blobSource, err)
		failed = fetch.Discard(ctx)
	default:
		failed = fetch.Suspend(ctx)
	}
	if failed != nil {
		ts.log.Error("what arrived of a blob cannot be kept or removed", "upstream", t.upstream, "blob", t.digest, "error", failed)
	}
	return ts.unlessStopped(err)
}

// reserve reports whether the cache has room for a blob of so many bytes.
func (t *transfer) reserve(ctx context.Context, total int64) bool {
	if !t.room.reserve(ctx, total, t.reserved) {
		return false
	}
	if t.room.MaxSize > 0 {
		t.reserved = max(t.reserved, total)
	}
	return true
}

// release gives back what is reserved: the blob is in storage by now, or will not be.
func (ts *Transfers) release(t *transfer) {
	ts.reserving.Lock()
	defer ts.reserving.Unlock()
	ts.reserved -= t.reserved
	t.reserved = 0
}

// keep makes what has arrived, and is right, part of its repositories.
func (ts *Transfers) keep(ctx context.Context, t *transfer, fetch *storage.Fetch) {
	ts.suspect.Remove(t.key())
	// Clients need not wait for the disk: nothing of this is theirs to lose.
	repositories := t.complete(fetch.Size())
	if err := fetch.Commit(ctx, t.upstream, repositories); err != nil {
		ts.log.Error("a blob was fetched but cannot be kept", "upstream", t.upstream, "blob", t.digest, "error", err)
	}
}

// unlessStopped returns err, or why all ends if that is the reason.
func (ts *Transfers) unlessStopped(err error) error {
	if err != nil && ts.stop.Err() != nil {
		return errStopped
	}
	return err
}

// mismatched takes note that an upstream sent what a blob is not: it is asked for next at
// the next URL.
func (ts *Transfers) mismatched(s blobSource, err error) {
	s.meter.mismatch()
	ts.suspect.Add(s.key(), ts.firstURL(s.key())+1)
	ts.log.Warn("the upstream sent wrong bytes, of which nothing is kept", "upstream", s.upstream, "repository", s.remote, "blob", s.digest, "error", err)
}

// firstURL returns the number of the URL that a blob is asked for first.
func (ts *Transfers) firstURL(key blobKey) int {
	passed, _ := ts.suspect.Get(key)
	return passed
}
