package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

const (
	// maxFruitless is how many answers without a byte end a transfer that had begun.
	maxFruitless = 5
	// maxBackoff is the longest pause between them.
	maxBackoff = 2 * time.Second
	// maxUnsized is the most bytes that are taken of a blob of which nobody said how many
	// it has.
	maxUnsized = 16 << 30
)

// receive appends all of the blob, and no other bytes, to what has arrived before.
func (ts *Transfers) receive(ctx context.Context, t *transfer, fetch *storage.Fetch) error {
	if !t.reserve(ctx, t.size) {
		return errOverflow
	}
	if missing := t.size - fetch.Size(); missing > 0 && !t.room.make(ctx, missing) {
		return errOverflow
	}
	first, had, fruitless := ts.firstURL(t.key()), fetch.Size(), 0
	for {
		have := fetch.Size()
		if whole, err := t.isWhole(ctx, fetch); whole || err != nil {
			return err
		}
		body, err := t.source().get(ctx, have, first)
		if err == nil {
			first = body.Endpoint
			err = t.take(ctx, fetch, body)
		}
		switch {
		case err == nil, errors.Is(err, errOverflow), errors.Is(err, errSpoilt), ctx.Err() != nil:
			return err
		case !t.hasBegun() && fetch.Size() == had:
			return err // nothing was promised to anybody yet: they get to know at once
		case fetch.Size() > have:
			fruitless = 0
		default:
			fruitless++
		}
		if fruitless == maxFruitless {
			return err
		}
		ts.log.Info("transfer broke off, going on", "upstream", t.upstream, "blob", t.digest, "at", fetch.Size(), "error", err)
		first++ // the next URL, or the same one if there is no other
		if err := backOff(ctx, fruitless); err != nil {
			return err
		}
	}
}

// source is where the blob comes from, with its size if that is known by now.
func (t *transfer) source() blobSource {
	s := t.blobSource
	s.size = max(s.size, t.total)
	return s
}

// backOff waits before the upstream is asked again after so many answers without a byte.
func backOff(ctx context.Context, fruitless int) error {
	if fruitless == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(min(maxBackoff, 100*time.Millisecond<<fruitless))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isWhole reports whether all of the blob is here before anything was asked for, since an
// earlier transfer received it. That may have been for another repository: the upstream
// must have it in this one.
func (t *transfer) isWhole(ctx context.Context, fetch *storage.Fetch) (bool, error) {
	have := fetch.Size()
	if have == 0 {
		return false, nil
	}
	if err := fetch.Verify(nil); err != nil {
		if t.size >= 0 && have >= t.size {
			return false, fmt.Errorf("%w: %w", errSpoilt, err)
		}
		return false, nil
	}
	if !t.hasBegun() {
		if _, err := t.client.StatBlob(ctx, t.remote, t.digest); err != nil {
			return false, err
		}
	}
	return true, nil
}

// take appends a body to what has arrived, and tells readers of each piece. It returns nil
// if that makes it the blob.
func (t *transfer) take(ctx context.Context, fetch *storage.Fetch, body *BlobBody) error {
	defer body.Close()
	total := max(body.Size, t.source().size)
	if t.total >= 0 && t.total != total {
		return fmt.Errorf("%w: %s said that %s has %d bytes, now %d", ErrInvalid, t.upstream, t.digest, t.total, total)
	}
	if !t.reserve(ctx, total) {
		return errOverflow
	}
	p := &progress{transfer: t, ctx: ctx, body: body, at: fetch.Size(), limit: total}
	if total < 0 {
		p.limit = maxUnsized
	}
	// Of nothing there is no last byte that could be kept back, nor of what an earlier
	// transfer left that may be all of it, or other bytes.
	if p.keepLast = p.at < total; p.keepLast {
		p.limit--
		t.begin(total)
	}
	n, err := fetch.ReadFrom(p)
	t.meter.received(n + int64(len(p.last)))
	if p.keepLast {
		t.arrived(fetch.Size())
	}
	if err == nil && p.last != nil {
		return finish(fetch, p.last)
	}
	switch {
	case err != nil && p.err == nil:
		return fmt.Errorf("%w: %w", errOverflow, err)
	case err != nil:
		return err
	case total >= 0 && fetch.Size() < total:
		return fmt.Errorf("%w: %s cut the connection after %d of %d bytes", ErrUnavailable, t.upstream, fetch.Size(), total)
	}
	return finish(fetch, nil)
}

// finish adds the last bytes to what has arrived if that makes it the blob. Only then is
// anything in the file that no client may have.
func finish(fetch *storage.Fetch, last []byte) error {
	if err := fetch.Verify(last); err != nil {
		return fmt.Errorf("%w: %w", errSpoilt, err)
	}
	if _, err := fetch.ReadFrom(bytes.NewReader(last)); err != nil {
		return fmt.Errorf("%w: %w", errOverflow, err)
	}
	return nil
}

// progress is a body on its way to the partial file. When Read is called, all that it
// returned before has been written.
type progress struct {
	*transfer
	ctx      context.Context
	body     io.Reader
	err      error // of reading, not of writing
	checked  int64 // there was room for the bytes before it
	at       int64 // offset of the next byte
	limit    int64 // what comes behind it is not for the file
	keepLast bool  // the byte there is kept back until all are known to be right
	last     []byte
}

func (p *progress) Read(b []byte) (int, error) {
	if p.keepLast {
		p.arrived(p.at)
	}
	if p.at >= p.limit {
		return 0, p.end()
	}
	if p.at >= p.checked {
		p.checked = p.at + roomStep
		step := min(roomStep, p.limit-p.at)
		if !p.reserve(p.ctx, p.at+step) || !p.room.make(p.ctx, step) {
			p.err = errOverflow
			return 0, p.err
		}
	}
	n, err := p.body.Read(b[:min(int64(len(b)), p.limit-p.at)])
	p.at += int64(n)
	return n, p.failed(err)
}

// end reads what is kept back.
func (p *progress) end() error {
	if !p.keepLast {
		return io.EOF
	}
	last := make([]byte, 1)
	if _, err := io.ReadFull(p.body, last); err != nil {
		return p.failed(err)
	}
	p.last = last
	return io.EOF
}

func (p *progress) failed(err error) error {
	if err != nil && err != io.EOF {
		p.err = err
	}
	return err
}
