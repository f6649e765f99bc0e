package upstream

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestASlowReaderHoldsNobodyUp(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, 32*mega) // more than all buffers on the way
	blob := s.up().AddBlob(first, content)
	slow := s.ask(http.MethodGet, blobPath(first, blob))
	head := make([]byte, 10)
	if _, err := io.ReadFull(slow.Body, head); err != nil {
		t.Fatal(err)
	}
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	if !s.kept(first, blob.Digest) {
		t.Error("it is not kept while a client is slow")
	}
	rest := readAll(slow)
	rest.body = append(head, rest.body...)
	rest.want(t, http.StatusOK, content)
}

func TestRangesOfWhatHasArrived(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	release := make(chan struct{})
	s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/"}, upstreamtest.Stall(half, release))
	path := blobPath(first, blob)
	for _, c := range []struct{ start, end int }{{0, 0}, {0, 99}, {100, half - 1}, {half - 2, half - 1}} {
		s.get(path, "Range", fmt.Sprintf("bytes=%d-%d", c.start, c.end)).want(t, http.StatusPartialContent, content[c.start:c.end+1])
	}
	several := s.get(path, "Range", "bytes=0-9,1000-1099")
	_, params, err := mime.ParseMediaType(several.header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(bytes.NewReader(several.body), params["boundary"])
	for _, want := range [][]byte{content[0:10], content[1000:1100]} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(part); err != nil || !bytes.Equal(got, want) {
			t.Errorf("a part has %d other bytes, %v", len(got), err)
		}
	}
	var waiting sync.WaitGroup
	waiting.Go(func() { s.get(path, "Range", "bytes=-100").want(t, http.StatusPartialContent, content[mega-100:]) })
	open := s.ask(http.MethodGet, path, "Range", "bytes=100-")
	if _, err := io.ReadFull(open.Body, make([]byte, 1000)); err != nil {
		t.Error(err)
	}
	close(release)
	readAll(open).want(t, http.StatusPartialContent, content[1100:])
	waiting.Wait()
	s.get(path, "Range", "bytes="+strconv.Itoa(mega)+"-").wantStatus(t, http.StatusRequestedRangeNotSatisfiable)
	if got := s.asked(); len(got) != 1 || got[0].Range() != "" {
		t.Errorf("asked: %v", got)
	}
}

// TestTheFirstByteComesAtOnce waits for what an upstream sends that then says no more.
func TestTheFirstByteComesAtOnce(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	release := make(chan struct{})
	s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/"}, upstreamtest.Stall(1, release))
	resp := s.ask(http.MethodGet, blobPath(first, blob))
	one := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, one); err != nil || one[0] != content[0] {
		t.Errorf("got %v, %v", one, err)
	}
	close(release)
	readAll(resp).want(t, http.StatusOK, content[1:])
}

func TestHeadOfAColdBlob(t *testing.T) {
	s := newSite(t, setup{})
	image := s.up().AddImage(first, "latest", upstreamtest.Bytes(1, mega))
	blob := image.Layers[0]
	head := func() {
		t.Helper()
		resp := s.ask(http.MethodHead, blobPath(first, blob))
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.ContentLength != mega || resp.Header.Get("X-Registry-Cache") != string(Miss) {
			t.Errorf("HEAD is %d with %d bytes, %v", resp.StatusCode, resp.ContentLength, resp.Header)
		}
	}
	head()
	if got := s.asked(); len(got) > 0 || s.kept(first, blob.Digest) {
		t.Errorf("HEAD fetched it: %v", got)
	}
	// Of an upstream that tells no size, it is the manifest's.
	s.get(manifestPath(first, "latest")).wantStatus(t, http.StatusOK)
	s.up().Fault(upstreamtest.Match{Path: "/blobs/"}, upstreamtest.Chunked())
	head()
	// Without one only the blob itself tells.
	other := s.up().AddBlob(second, blob.Content)
	resp := s.ask(http.MethodHead, blobPath(second, other))
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != mega {
		t.Errorf("HEAD is %d with %d bytes", resp.StatusCode, resp.ContentLength)
	}
	resp = s.ask(http.MethodHead, blobPath(first, upstreamtest.Blob{Descriptor: described(digest.FromString("absent"))}))
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("HEAD of nothing is %d", resp.StatusCode)
	}
}

// TestUnusualBlobs shows that size and algorithm make no difference.
func TestUnusualBlobs(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			for _, size := range []int{0, 1, 2, 4<<20 + 1} {
				t.Run(fmt.Sprint(algorithm, " ", size, " chunked ", chunked), func(t *testing.T) {
					t.Parallel()
					content := upstreamtest.Bytes(uint64(size), size)
					blob := upstreamtest.Blob{Descriptor: described(algorithm.FromBytes(content))}
					s := newSite(t, setup{})
					s.up().AddBlob(first, []byte("something"))
					faults := []upstreamtest.Fault{upstreamtest.Answer(http.StatusOK, "application/octet-stream", content)}
					if chunked {
						faults = append(faults, upstreamtest.Chunked())
					}
					s.up().Fault(upstreamtest.Match{Path: blob.Digest.Encoded()}, faults...)
					var clients sync.WaitGroup
					for range 3 {
						clients.Go(func() { s.get(blobPath(first, blob)).want(t, http.StatusOK, content) })
					}
					clients.Wait()
					if !s.kept(first, blob.Digest) {
						t.Error("it is not kept")
					}
					s.wantNothingLeft()
					s.up().Down()
					s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
				})
			}
		}
	}
}
