package upstream

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// blobGet selects the requests that a transfer makes.
func blobGet(skip, first int) upstreamtest.Match {
	return upstreamtest.Match{Method: http.MethodGet, Path: "/blobs/", Skip: skip, First: first}
}

// wantNoByteTwice checks that each request asks for what comes right behind what came
// before.
func wantNoByteTwice(t *testing.T, asked upstreamtest.Requests, size int64) {
	t.Helper()
	var sent int64
	for _, r := range asked {
		want := ""
		if sent > 0 {
			want = fmt.Sprintf("bytes=%d-", sent)
		}
		if r.Range() != want {
			t.Errorf("asked with Range %q, want %q", r.Range(), want)
		}
		sent += r.Sent
	}
	if sent != size {
		t.Errorf("%d bytes were sent of %d: %v", sent, size, asked)
	}
}

func TestABrokenTransferGoesOnFromTheLastByte(t *testing.T) {
	never := make(chan struct{})
	for _, c := range []struct {
		name   string
		faults map[upstreamtest.Match][]upstreamtest.Fault
	}{
		{"cut", map[upstreamtest.Match][]upstreamtest.Fault{blobGet(0, 1): {upstreamtest.CutHalf()}}},
		{"cut before the first byte", map[upstreamtest.Match][]upstreamtest.Fault{blobGet(0, 1): {upstreamtest.Cut(5)}, blobGet(1, 1): {upstreamtest.Cut(0)}}},
		{"cut before the last byte", map[upstreamtest.Match][]upstreamtest.Fault{blobGet(0, 1): {upstreamtest.Cut(mega - 1)}}},
		{"cut again and again", map[upstreamtest.Match][]upstreamtest.Fault{blobGet(0, 12): {upstreamtest.CutHalf()}}},
		{"stalled", map[upstreamtest.Match][]upstreamtest.Fault{blobGet(0, 1): {upstreamtest.Stall(half, never)}}},
		{"without a size", map[upstreamtest.Match][]upstreamtest.Fault{blobGet(0, 0): {upstreamtest.Chunked()}, blobGet(0, 2): {upstreamtest.CutHalf()}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, setup{stall: 200 * time.Millisecond})
			content := upstreamtest.Bytes(1, mega)
			blob := s.up().AddBlob(first, content)
			for match, faults := range c.faults {
				s.up().Fault(match, faults...)
			}
			var clients sync.WaitGroup
			for range 3 {
				clients.Go(func() { s.get(blobPath(first, blob)).want(t, http.StatusOK, content) })
			}
			clients.Wait()
			wantNoByteTwice(t, s.asked(), mega)
			if !s.kept(first, blob.Digest) {
				t.Error("it is not kept")
			}
			s.wantNothingLeft()
		})
	}
}

// TestUpstreamsWithoutRanges cuts upstreams that do not go on where they are asked to.
func TestUpstreamsWithoutRanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		faults []upstreamtest.Fault
		match  upstreamtest.Match
	}{
		{"ignored", []upstreamtest.Fault{upstreamtest.IgnoreRange()}, blobGet(0, 0)},
		{"refused", []upstreamtest.Fault{upstreamtest.Refuse(http.StatusRequestedRangeNotSatisfiable)}, blobGet(1, 1)},
		{"bad", []upstreamtest.Fault{upstreamtest.Refuse(http.StatusBadRequest)}, blobGet(1, 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, setup{})
			content := upstreamtest.Bytes(1, mega)
			blob := s.up().AddBlob(first, content)
			s.up().Fault(blobGet(0, 1), upstreamtest.CutHalf())
			s.up().Fault(c.match, c.faults...)
			s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
			if !s.kept(first, blob.Digest) {
				t.Error("it is not kept")
			}
		})
	}
}

func TestATransferGoesOnAtTheNextURL(t *testing.T) {
	t.Parallel()
	s := newSite(t, setup{urls: 2})
	content := upstreamtest.Bytes(1, mega)
	var blob upstreamtest.Blob
	for _, u := range s.upstreams {
		blob = u.AddBlob(first, content)
	}
	s.up().Fault(blobGet(0, 1), upstreamtest.CutHalf())
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	if got := s.upstreams[1].Requests(); len(got) != 1 || got[0].Range() != fmt.Sprintf("bytes=%d-", half) {
		t.Errorf("the second was asked: %v", got)
	}
}

func TestAnUpstreamThatIsGoneForGood(t *testing.T) {
	t.Parallel()
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	s.up().Fault(blobGet(0, 1), upstreamtest.CutHalf())
	s.up().Fault(blobGet(1, 0), upstreamtest.Cut(0))
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			r := s.get(blobPath(first, blob))
			r.wantCut(t)
			if len(r.body) != half {
				t.Errorf("got %d bytes before that", len(r.body))
			}
		})
	}
	clients.Wait()
	if s.kept(first, blob.Digest) {
		t.Error("it is kept")
	}
	if n := len(s.asked()); n != 1+maxFruitless {
		t.Errorf("asked %d times", n)
	}
	s.up().Heal()
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	if got := s.asked(); got.Sent() != mega {
		t.Errorf("asked: %v", got)
	}
}

// TestErrorsBeforeTheFirstByteKeepTheirMeaning fails a transfer before it begins.
func TestErrorsBeforeTheFirstByteKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ upstream, want int }{
		{http.StatusNotFound, http.StatusNotFound},
		{http.StatusUnauthorized, http.StatusForbidden},
		{http.StatusForbidden, http.StatusForbidden},
		{http.StatusInternalServerError, http.StatusBadGateway},
		{http.StatusServiceUnavailable, http.StatusBadGateway},
	} {
		s := newSite(t, setup{})
		blob := s.up().AddBlob(first, upstreamtest.Bytes(1, mega))
		undo := s.up().Fault(upstreamtest.Match{}, upstreamtest.Refuse(c.upstream))
		s.get(blobPath(first, blob)).wantStatus(t, c.want)
		s.wantNothingLeft()
		undo()
	}
	s := newSite(t, setup{})
	blob := s.up().AddBlob(first, upstreamtest.Bytes(1, mega))
	s.up().Fault(upstreamtest.Match{}, upstreamtest.TooManyRequests("7"))
	s.get(blobPath(first, blob)).wantStatus(t, http.StatusTooManyRequests)
}
