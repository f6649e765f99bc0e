package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestNoWrongByteCompletes(t *testing.T) {
	content := upstreamtest.Bytes(1, mega)
	for _, overTLS := range []bool{false, true} { // that is HTTP/2
		for _, offset := range []int64{0, half, mega - 1} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprint("byte ", offset, " tls ", overTLS, " chunked ", chunked), func(t *testing.T) {
					t.Parallel()
					s := newSite(t, setup{tls: overTLS})
					blob := s.up().AddBlob(first, content)
					release := make(chan struct{})
					faults := []upstreamtest.Fault{upstreamtest.FlipByte(offset), upstreamtest.WaitUntil(release)}
					if chunked {
						faults = append(faults, upstreamtest.Chunked())
					}
					undo := s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/"}, faults...)
					var clients sync.WaitGroup
					for _, header := range []string{"", "bytes=0-", "bytes=100-", "bytes=-100", "bytes=-1",
						"bytes=1000-1048575", "bytes=0-9,1048570-1048575", "bytes=0-5000000"} {
						clients.Go(func() { s.get(blobPath(first, blob), "Range", header).wantCut(t) })
					}
					close(release)
					clients.Wait()
					if s.kept(first, blob.Digest) {
						t.Error("it is kept")
					}
					s.wantNothingLeft()
					if c := s.counts.get(); c.mismatches != len(s.asked()) || !s.log.has("wrong bytes") {
						t.Errorf("counted %d mismatches, asked: %v", c.mismatches, s.asked())
					}
					undo()
					s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
					if !s.kept(first, blob.Digest) {
						t.Error("what is right is not kept")
					}
				})
			}
		}
	}
}

func TestAfterWrongBytesTheNextURLIsAsked(t *testing.T) {
	s := newSite(t, setup{urls: 2})
	content := upstreamtest.Bytes(1, mega)
	var blob upstreamtest.Blob
	for _, u := range s.upstreams {
		blob = u.AddBlob(first, content)
	}
	s.up().Fault(blobGet(0, 0), upstreamtest.FlipByte(5))
	s.get(blobPath(first, blob)).wantCut(t)
	s.settle()
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	if got := s.upstreams[1].Requests(); len(got) != 1 || len(s.asked()) != 1 {
		t.Errorf("asked: %v and %v", s.asked(), got)
	}
}

// TestWrongLengths has upstreams that say, or send, more or less than a blob has. A client
// that gets all gets what is right.
func TestWrongLengths(t *testing.T) {
	content := upstreamtest.Bytes(1, mega)
	for _, c := range []struct {
		name   string
		faults []upstreamtest.Fault
		heals  bool // as soon as a manifest tells the size
	}{
		{"more is said", []upstreamtest.Fault{upstreamtest.ContentLength(10)}, false},
		{"less is said", []upstreamtest.Fault{upstreamtest.ContentLength(-10)}, false},
		{"nothing is said", []upstreamtest.Fault{upstreamtest.ContentLength(-mega)}, false},
		{"less is sent", []upstreamtest.Fault{upstreamtest.Answer(http.StatusOK, "application/octet-stream", content[:half])}, false},
		{"less is sent, chunked", []upstreamtest.Fault{upstreamtest.Answer(http.StatusOK, "application/octet-stream", content[:half]), upstreamtest.Chunked()}, false},
		{"more is sent", []upstreamtest.Fault{upstreamtest.Answer(http.StatusOK, "application/octet-stream", append(upstreamtest.Bytes(1, mega), 'x'))}, false},
		{"more is sent, chunked", []upstreamtest.Fault{upstreamtest.Answer(http.StatusOK, "application/octet-stream", append(upstreamtest.Bytes(1, mega), 'x')), upstreamtest.Chunked()}, true},
		{"a page", []upstreamtest.Fault{upstreamtest.Answer(http.StatusOK, "text/html", []byte("<html>log in</html>"))}, false},
		{"compressed", []upstreamtest.Fault{upstreamtest.Gzip()}, true},
		{"compressed, chunked", []upstreamtest.Fault{upstreamtest.Gzip(), upstreamtest.Chunked()}, true},
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, " known ", known), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, setup{})
				blob := s.up().AddImage(first, "latest", content).Layers[0]
				if known {
					s.get(manifestPath(first, "latest")).wantStatus(t, http.StatusOK)
				}
				undo := s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/"}, c.faults...)
				r := s.get(blobPath(first, blob))
				if known && c.heals {
					r.want(t, http.StatusOK, content)
				} else {
					r.wantCut(t)
				}
				undo()
				s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
				if !s.kept(first, blob.Digest) {
					t.Error("what is right is not kept")
				}
				s.wantNothingLeft()
			})
		}
	}
}

// TestAnEndlessBody is of a blob whose size a manifest tells: what comes behind it is not
// read.
func TestAnEndlessBody(t *testing.T) {
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddImage(first, "latest", content).Layers[0]
	s.get(manifestPath(first, "latest")).wantStatus(t, http.StatusOK)
	s.up().Fault(blobGet(0, 0), upstreamtest.Endless())
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	if !s.kept(first, blob.Digest) {
		t.Error("it is not kept")
	}
}

func TestWrongManifests(t *testing.T) {
	for _, fault := range []upstreamtest.Fault{
		upstreamtest.FlipByte(20),
		upstreamtest.Digest("sha256:" + strings.Repeat("0", 64)),
		upstreamtest.Cut(10),
		upstreamtest.ContentLength(10),
		upstreamtest.ContentLength(-10),
		upstreamtest.Schema1(),
		upstreamtest.Answer(http.StatusOK, "text/html", []byte("<html>log in</html>")),
	} {
		s := newSite(t, setup{})
		image := s.up().AddImage(first, "latest", []byte("layer"))
		undo := s.up().Fault(upstreamtest.Match{Method: "GET", Path: "/manifests/"}, fault)
		r := s.get(manifestPath(first, "latest"))
		if r.status < 500 || r.err != nil {
			t.Errorf("by tag: %d, %v", r.status, r.err)
		}
		if r := s.get(manifestPath(first, image.Manifest.Digest.String())); r.err != nil || r.status == http.StatusOK && string(r.body) != string(image.Manifest.Content) {
			t.Errorf("by digest: %d, %v", r.status, r.err)
		}
		undo()
		s.get(manifestPath(first, "latest")).want(t, http.StatusOK, image.Manifest.Content)
		s.get(manifestPath(first, image.Manifest.Digest.String())).want(t, http.StatusOK, image.Manifest.Content)
	}
}
