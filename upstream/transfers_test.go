package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

const (
	mega = 1 << 20
	half = mega / 2
)

// first and second are repositories of the upstream.
const first, second = "library/first", "library/second"

func TestOneTransferForAllClients(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, 4*mega)
	blob := s.up().AddBlob(first, content)
	s.up().AddBlob(second, content)
	release := make(chan struct{})
	s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/"}, upstreamtest.Stall(half, release))
	var clients sync.WaitGroup
	begun := make(chan struct{}, 30)
	for i := range 30 {
		clients.Go(func() {
			resp := s.ask(http.MethodGet, blobPath([]string{first, second}[i%2], blob))
			begun <- struct{}{}
			readAll(resp).want(t, http.StatusOK, content)
		})
	}
	for range 30 {
		<-begun
	}
	close(release)
	clients.Wait()
	if got := s.asked(); len(got) != 1 || got.Sent() != 4*mega {
		t.Errorf("%d bytes were asked for: %v", got.Sent(), got)
	}
	// Whoever came for another repository asked whether the upstream has it there.
	if heads := s.up().Requests().Method(http.MethodHead); len(heads) == 0 || len(heads.Path(second))*len(heads.Path(first)) != 0 {
		t.Errorf("asked by HEAD: %v", heads)
	}
	for _, repository := range []string{first, second} {
		if !s.kept(repository, blob.Digest) {
			t.Errorf("%s has it not", repository)
		}
	}
	s.wantNothingLeft()
	if c := s.counts.get(); c.received != 4*mega || c.active != 0 {
		t.Errorf("counted %d bytes and %d transfers", c.received, c.active)
	}
	s.up().Reset()
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	if got := s.up().Requests(); len(got) > 0 {
		t.Errorf("asked again: %v", got)
	}
	if c := s.counts.get(); c.served != 4*mega {
		t.Errorf("%d bytes were served from here", c.served)
	}
}

func TestARepositoryThatLacksABlobDoesNotGetAnothers(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	s.up().AddBlob(second, []byte("other"))
	release := make(chan struct{})
	undo := s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/"}, upstreamtest.Stall(half, release))
	resp := s.ask(http.MethodGet, blobPath(first, blob))
	s.get(blobPath(second, blob)).wantStatus(t, http.StatusNotFound)
	close(release)
	readAll(resp).want(t, http.StatusOK, content)
	undo()
	if s.kept(second, blob.Digest) {
		t.Error("it is kept there")
	}
	s.get(blobPath("library/third", blob)).wantStatus(t, http.StatusNotFound)
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
}

// TestAnotherRepositorysFailureIsNotShared has a client wait for a transfer that fails
// since the repository it was begun for has not the blob.
func TestAnotherRepositorysFailureIsNotShared(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	s.up().AddBlob(second, []byte("other"))
	release := make(chan struct{})
	s.up().Fault(upstreamtest.Match{Method: "GET", Path: second + "/blobs/"}, upstreamtest.WaitUntil(release))
	var clients sync.WaitGroup
	clients.Go(func() { s.get(blobPath(second, blob)).wantStatus(t, http.StatusNotFound) })
	s.await("the transfer for the other repository", func() bool { return len(s.asked()) == 1 })
	clients.Go(func() { s.get(blobPath(first, blob)).want(t, http.StatusOK, content) })
	s.await("the second client to join", func() bool {
		s.transfers.mu.Lock()
		defer s.transfers.mu.Unlock()
		for _, active := range s.transfers.active {
			return active.isFor(hub + "/" + first)
		}
		return false
	})
	close(release)
	clients.Wait()
	if !s.kept(first, blob.Digest) || s.kept(second, blob.Digest) {
		t.Error("the copies hold something else")
	}
}

func TestABlobOfAnotherCopyIsVerifiedUpstream(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	s.up().AddBlob(second, content)
	s.up().AddBlob("library/third", []byte("other"))
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	s.settle()
	s.up().Reset()
	s.get(blobPath(second, blob)).want(t, http.StatusOK, content)
	s.get(blobPath("library/third", blob)).wantStatus(t, http.StatusNotFound)
	if got := s.up().Requests(); len(got.Method(http.MethodGet)) != 0 || len(got) != 2 {
		t.Errorf("asked: %v", got)
	}
	// Nor is it told without the upstream that the blob is here.
	s.up().Down()
	s.get(blobPath("library/fourth", blob)).wantStatus(t, http.StatusBadGateway)
}

func TestATransferOutlivesItsClients(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, 2*mega)
	blob := s.up().AddBlob(first, content)
	release := make(chan struct{})
	s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/"}, upstreamtest.Stall(half, release))
	for range 3 {
		ctx, leave := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+"/v2/"+blobPath(first, blob), nil)
		resp, err := s.server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 100)); err != nil {
			t.Error(err)
		}
		leave()
		resp.Body.Close()
	}
	close(release)
	if !s.kept(first, blob.Digest) {
		t.Error("it is not kept")
	}
	if got := s.asked(); got.Sent() != 2*mega {
		t.Errorf("asked: %v", got)
	}
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
}

func TestCloseEndsWhatWaits(t *testing.T) {
	s := newSite(t, setup{})
	blob := s.up().AddBlob(first, upstreamtest.Bytes(1, mega))
	s.up().AddImage(first, "latest", []byte("layer"))
	s.up().BlackHole()
	var clients sync.WaitGroup
	for _, path := range []string{blobPath(first, blob), manifestPath(first, "latest"), hub + "/" + first + "/tags/list"} {
		clients.Go(func() { s.get(path).wantStatus(t, http.StatusBadGateway) })
	}
	s.await("all questions", func() bool { return len(s.up().Requests()) == 3 })
	s.transfers.Close()
	clients.Wait()
	s.get(blobPath(first, blob)).wantStatus(t, http.StatusBadGateway)
	s.get(manifestPath(first, "latest")).wantStatus(t, http.StatusBadGateway)
	s.wantNothingLeft()
}

// TestTransfersBeginWhileOthersEnd asks for one blob from many repositories, over and
// over, so that transfers are joined as they end.
func TestTransfersBeginWhileOthersEnd(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, 1000)
	var blob upstreamtest.Blob
	var repositories []string
	for i := range 8 {
		repositories = append(repositories, fmt.Sprint("library/r", i))
		blob = s.up().AddBlob(repositories[i], content)
	}
	for round := range 10 {
		var clients sync.WaitGroup
		for i := range 16 {
			clients.Go(func() {
				s.get(blobPath(repositories[(i+round)%len(repositories)], blob)).want(t, http.StatusOK, content)
			})
		}
		clients.Wait()
		s.settle()
		if _, err := s.registry.Evict(t.Context(), mega, nil); err != nil {
			t.Error(err)
		}
	}
	s.wantNothingLeft()
	if got := s.asked(); len(got) != 10 {
		t.Errorf("asked %d times, want 10", len(got))
	}
}

func TestPrefetch(t *testing.T) {
	s := newSite(t, setup{options: Options{Prefetch: true}})
	image := s.up().AddImage(first, "latest", upstreamtest.Bytes(1, mega), upstreamtest.Bytes(2, mega))
	s.get(manifestPath(first, "latest")).wantStatus(t, http.StatusOK, Miss)
	s.await("the blobs", func() bool {
		return !slices.ContainsFunc(image.Blobs(), func(b upstreamtest.Blob) bool { return !s.kept(first, b.Digest) })
	})
	s.up().Down()
	for _, blob := range image.Blobs() {
		s.get(blobPath(first, blob)).want(t, http.StatusOK, blob.Content)
	}
	if got := s.asked(); len(got) != 3 {
		t.Errorf("asked: %v", got)
	}
}
