package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

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
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu     sync.Mutex
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

// NewTransfers returns transfers into a registry.
func NewTransfers(registry *storage.Registry, log *slog.Logger) *Transfers {
	suspect, err := lru.New[blobKey, int](maxSuspects)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	stop, cancel := context.WithCancel(context.Background())
	return &Transfers{
		registry: registry,
		log:      log,
		stop:     stop,
		cancel:   cancel,
		active:   make(map[blobKey]*transfer),
		suspect:  suspect,
	}
}

// Close suspends all transfers. A later process goes on with what has arrived.
func (ts *Transfers) Close() {
	ts.cancel()
	ts.running.Wait()
}

// blobSource is where a blob comes from: a [Client], and the name of a repository there.
type blobSource struct {
	client     *Client
	upstream   string
	remote     string // the repository's name there
	repository string // and here
	digest     digest.Digest
	size       int64 // as a manifest says, or -1
	room       *Room
	meter      Meter
}

func (s blobSource) key() blobKey { return blobKey{s.upstream, s.digest} }

// get asks for the bytes from offset on.
func (s blobSource) get(ctx context.Context, offset int64, first int) (*BlobBody, error) {
	body, err := s.client.Blob(ctx, s.remote, s.digest, offset, first, s.size)
	if err != nil {
		return nil, err
	}
	if s.size >= 0 && body.Size >= 0 && body.Size != s.size {
		body.Close()
		return nil, fmt.Errorf("%w: %s says that %s has %d bytes, its manifest %d", ErrInvalid, s.upstream, s.digest, body.Size, s.size)
	}
	if skip := offset - body.Offset; skip > 0 {
		if _, err := io.CopyN(io.Discard, body, skip); err != nil {
			body.Close()
			return nil, err
		}
	}
	return body, nil
}

// transfer is one blob that fills a partial file, from which all who want it read.
type transfer struct {
	blobSource
	begun chan struct{} // closed when the size is known, or that there is nothing
	ended chan struct{}

	mu           sync.Mutex
	fetch        *storage.Fetch
	repositories []string      // copies that the blob becomes part of
	closed       bool          // no more of them
	changed      chan struct{} // closed when any of the following change
	total        int64
	readable     int64 // bytes that may be given to clients
	err          error // why no more come; errOverflow: the rest is for each reader to ask for
	rest         storage.UploadState
}

// errOverflow ends a transfer for which the disk has no room.
var errOverflow = errors.New("the disk has no room for the rest")

// errEnded says that a transfer ended before it could be joined: storage may have the
// blob by now.
var errEnded = errors.New("the transfer has ended")

// join returns the transfer of a blob, which is begun if need be. One that was begun for
// another repository is joined only if known tells that the upstream has the blob there
// too.
func (ts *Transfers) join(ctx context.Context, source blobSource, known func() error) (*transfer, error) {
	ts.mu.Lock()
	t := ts.active[source.key()]
	if t == nil {
		defer ts.mu.Unlock()
		if err := ts.stop.Err(); err != nil {
			return nil, err
		}
		// One that has just ended left the blob where the caller did not find it before.
		if ts.isHere(ctx, source.repository, source.digest) {
			return nil, errEnded
		}
		return ts.begin(source), nil
	}
	ts.mu.Unlock()
	if t.isFor(source.repository) {
		return t, nil
	}
	if err := known(); err != nil {
		return nil, err
	}
	if t.add(source.repository) {
		return t, nil
	}
	select {
	case <-t.ended:
		return nil, errEnded
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// isHere reports whether a repository has a blob, and storage its bytes.
func (ts *Transfers) isHere(ctx context.Context, repository string, d digest.Digest) bool {
	blob, _, err := ts.registry.OpenBlob(ctx, repository, d)
	if err != nil {
		return false
	}
	blob.Close()
	return true
}

func (ts *Transfers) begin(source blobSource) *transfer {
	t := &transfer{
		blobSource:   source,
		begun:        make(chan struct{}),
		ended:        make(chan struct{}),
		repositories: []string{source.repository},
		changed:      make(chan struct{}),
		total:        -1,
	}
	ts.active[source.key()] = t
	ts.running.Go(func() { ts.run(t) })
	return t
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

// outcome returns the size of a blob, -1 if that is not known, and why it does not arrive.
func (t *transfer) outcome() (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total, t.err
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

func (t *transfer) setBegun() {
	select {
	case <-t.begun:
	default:
		close(t.begun)
	}
}

// arrived tells readers that the partial file has n bytes.
func (t *transfer) arrived(n int64) {
	t.change(func() { t.readable = max(t.readable, n) })
}

// fail ends a transfer for its readers.
func (t *transfer) fail(err error) {
	t.change(func() { t.err = err })
	t.setBegun()
}

const (
	// maxFruitless is how many answers without a byte end a transfer that had begun.
	maxFruitless = 5
	// maxBackoff is the longest pause between them.
	maxBackoff = 2 * time.Second
)

// run fetches the blob and makes it part of its repositories.
func (ts *Transfers) run(t *transfer) {
	t.meter.transfers(+1)
	defer t.meter.transfers(-1)
	err := ts.fetch(t)
	if err != nil {
		t.fail(err)
		if !errors.Is(err, context.Canceled) {
			ts.log.Warn("transfer failed", "upstream", t.upstream, "repository", t.remote, "blob", t.digest, "error", err)
		}
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.active, t.key())
	close(t.ended)
}

func (ts *Transfers) fetch(t *transfer) error {
	ctx := ts.stop
	fetch, err := ts.registry.BeginFetch(ctx, t.upstream, t.digest)
	if err != nil {
		return err
	}
	t.change(func() { t.fetch = fetch })
	err = ts.receive(ctx, t, fetch)
	switch {
	case errors.Is(err, storage.ErrFull), errors.Is(err, errNoRoom):
		return ts.overflow(t, fetch)
	case errors.Is(err, storage.ErrDigestInvalid):
		return ts.mismatch(t, fetch, err)
	case errors.Is(err, ErrInvalid):
		return errors.Join(err, fetch.Discard(context.WithoutCancel(ctx)))
	case err != nil:
		return errors.Join(err, fetch.Suspend(context.WithoutCancel(ctx)))
	}
	if err := fetch.Verify(nil); err != nil {
		return ts.mismatch(t, fetch, err)
	}
	// Clients need not wait for the disk: nothing of this is theirs to lose.
	t.change(func() { t.total, t.readable = fetch.Size(), fetch.Size() })
	t.setBegun()
	ts.suspect.Remove(t.key())

	t.mu.Lock()
	repositories := slices.Clone(t.repositories)
	t.closed = true
	t.mu.Unlock()
	if err := fetch.Commit(context.WithoutCancel(ctx), t.upstream, repositories); err != nil {
		ts.log.Error("a blob was fetched but cannot be kept", "upstream", t.upstream, "blob", t.digest, "error", err)
	}
	return nil
}

// mismatch throws away what is not what its digest says.
func (ts *Transfers) mismatch(t *transfer, fetch *storage.Fetch, err error) error {
	ts.distrust(t)
	t.meter.mismatch()
	return errors.Join(fmt.Errorf("%w: %w", ErrInvalid, err), fetch.Discard(context.WithoutCancel(ts.stop)))
}

// overflow lets readers ask for what the disk has no room for.
func (ts *Transfers) overflow(t *transfer, fetch *storage.Fetch) error {
	state, err := fetch.Abandon(context.WithoutCancel(ts.stop))
	if err != nil {
		return err
	}
	t.change(func() {
		t.rest = state
		t.readable = state.Size
	})
	return errOverflow
}

// receive appends all of the blob to what has arrived before.
func (ts *Transfers) receive(ctx context.Context, t *transfer, fetch *storage.Fetch) error {
	first, _ := ts.suspect.Get(t.key())
	fruitless := 0
	for {
		have := fetch.Size()
		if whole, err := t.isWhole(ctx, have); whole || err != nil {
			return err
		}
		body, err := t.get(ctx, have, first)
		if err == nil {
			first = body.Endpoint
			err = t.take(ctx, fetch, body)
		}
		if err == nil || errors.Is(err, storage.ErrDigestInvalid) || errors.Is(err, storage.ErrFull) || errors.Is(err, errNoRoom) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		// Nothing was promised to anybody yet: they get to know at once.
		if !t.hasBegun() {
			if errors.Is(err, ErrInvalid) {
				ts.distrust(t)
			}
			return err
		}
		if fetch.Size() > have {
			fruitless = 0
		} else if fruitless++; fruitless == maxFruitless {
			return err
		}
		ts.log.Info("transfer broke off, going on", "upstream", t.upstream, "blob", t.digest, "at", fetch.Size(), "error", err)
		first++ // the next URL, or the same one if there is no other
		select {
		case <-time.After(backoff(fruitless)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isWhole reports whether an earlier transfer received all of the blob, which may have
// been for another repository: the upstream must have it in this one.
func (t *transfer) isWhole(ctx context.Context, have int64) (bool, error) {
	if t.size < 0 || have < t.size {
		return false, nil
	}
	if have > t.size {
		return false, fmt.Errorf("%w: %d bytes of %s arrived, its manifest says %d", ErrInvalid, have, t.digest, t.size)
	}
	if !t.hasBegun() && have > 0 {
		if _, err := t.client.StatBlob(ctx, t.remote, t.digest); err != nil {
			return false, err
		}
	}
	return have > 0 || t.hasBegun(), nil
}

func backoff(fruitless int) time.Duration {
	if fruitless == 0 {
		return 0
	}
	return min(maxBackoff, 100*time.Millisecond<<fruitless)
}

func (t *transfer) hasBegun() bool {
	select {
	case <-t.begun:
		return true
	default:
		return false
	}
}

// take appends a body to what has arrived, and tells readers of each piece.
func (t *transfer) take(ctx context.Context, fetch *storage.Fetch, body *BlobBody) error {
	defer body.Close()
	total := body.Size
	if total < 0 {
		total = t.size
	}
	limit := int64(maxUnsized)
	if total >= 0 {
		if t.total >= 0 && t.total != total {
			return fmt.Errorf("%w: %s said that %s has %d bytes, now %d", ErrInvalid, t.upstream, t.digest, t.total, total)
		}
		limit = total
		t.begin(total)
	}
	p := &progress{transfer: t, ctx: ctx, body: body, at: fetch.Size(), limit: limit, sized: total >= 0}
	n, err := fetch.ReadFrom(p)
	t.meter.received(n + int64(len(p.last)))
	if total >= 0 {
		t.arrived(fetch.Size())
	}
	if err == nil && p.last != nil && !p.overlong {
		if err = fetch.Verify(p.last); err == nil {
			_, err = fetch.ReadFrom(bytes.NewReader(p.last))
		}
	}
	switch {
	case p.overlong:
		return fmt.Errorf("%w: %s sends more than %d bytes of %s", ErrInvalid, t.upstream, limit, t.digest)
	case err != nil:
		return err
	case total >= 0 && fetch.Size() < total:
		return fmt.Errorf("%w: %s cut the connection after %d of %d bytes", ErrUnavailable, t.upstream, fetch.Size(), total)
	}
	return nil
}

// maxUnsized is the most bytes that are taken of a blob of which nobody said how many
// it has.
const maxUnsized = 16 << 30

// progress is a body on its way to the partial file. When Read is called, all that it
// returned before has been written.
type progress struct {
	*transfer
	ctx      context.Context
	body     io.Reader
	checked  int64 // room for the bytes before it was made
	at       int64 // offset of the next byte
	limit    int64
	sized    bool
	last     []byte // of a sized body
	overlong bool
}

func (p *progress) Read(b []byte) (int, error) {
	if p.sized {
		p.arrived(p.at)
	}
	end := p.limit
	if p.sized {
		end = max(0, end-1) // the last byte comes when all are known to be right
	}
	if p.at >= end {
		return 0, p.end(end)
	}
	if p.at >= p.checked {
		p.checked = p.at + roomStep
		if !p.room.make(p.ctx, min(roomStep, p.limit-p.at)) {
			return 0, errNoRoom
		}
	}
	n, err := p.body.Read(b[:min(int64(len(b)), end-p.at)])
	p.at += int64(n)
	return n, err
}

// end reads what follows: the byte that was kept back, and nothing more.
func (p *progress) end(at int64) error {
	rest := make([]byte, p.limit-at+1)
	n, err := io.ReadFull(p.body, rest)
	if err == nil {
		p.overlong = true
	} else if n == len(rest)-1 {
		p.last, err = rest[:n], io.EOF
	}
	return err
}

// distrust has the next transfer of the blob begin at the next URL.
func (ts *Transfers) distrust(t *transfer) {
	passed, _ := ts.suspect.Get(t.key())
	ts.suspect.Add(t.key(), passed+1)
}
