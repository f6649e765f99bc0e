package upstream

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// begin has a client read the first bytes of a blob whose upstream then falls silent.
func (s *site) begin(blob upstreamtest.Blob, n int64) *http.Response {
	s.t.Helper()
	s.up().Fault(blobGet(0, 1), upstreamtest.Stall(n, make(chan struct{})))
	resp := s.ask(http.MethodGet, blobPath(first, blob))
	if _, err := io.ReadFull(resp.Body, make([]byte, n)); err != nil {
		s.t.Fatal(err)
	}
	return resp
}

func TestATransferGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	resp := s.begin(blob, half)
	s.restart()
	readAll(resp).wantCut(t)
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	wantNoByteTwice(t, s.asked(), mega)
	if !s.kept(first, blob.Digest) {
		t.Error("it is not kept")
	}
	s.wantNothingLeft()
}

func TestATransferGoesOnAfterACrash(t *testing.T) {
	t.Parallel()
	s := newSite(t, setup{})
	content := upstreamtest.Bytes(1, mega)
	blob := s.up().AddBlob(first, content)
	resp := s.begin(blob, half)
	s.await("the fact of it", func() bool {
		var n int
		err := s.database.Read(t.Context()).QueryRow(`SELECT count(*) FROM uploads`).Scan(&n)
		return err == nil && n == 1
	})
	crashed := t.TempDir()
	if err := os.CopyFS(crashed, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	s.close()
	readAll(resp).wantCut(t)
	s.dir = crashed
	s.open()
	s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
	wantNoByteTwice(t, s.asked(), mega)
	if !s.kept(first, blob.Digest) {
		t.Error("it is not kept")
	}
	s.wantNothingLeft()
}

// TestAllOfABlobIsLeftByACrash goes on where nothing is left to ask for, but whether the
// upstream has it.
func TestAllOfABlobIsLeftByACrash(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		knows func(*site, upstreamtest.Image)
	}{
		{"of a known size", func(s *site, image upstreamtest.Image) {
			s.get(manifestPath(first, "latest")).wantStatus(s.t, http.StatusOK)
		}},
		{"of any size", func(*site, upstreamtest.Image) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, setup{})
			image := s.up().AddImage(first, "latest", upstreamtest.Bytes(1, mega))
			blob := image.Layers[0]
			s.up().AddBlob(second, []byte("other"))
			c.knows(s, image)
			s.leave(blob, blob.Content)
			s.up().Reset()
			s.get(blobPath(second, blob)).wantStatus(t, http.StatusNotFound)
			s.get(blobPath(first, blob)).want(t, http.StatusOK, blob.Content)
			if got := s.up().Requests().Path(first); len(got) != 1 || got[0].Method != http.MethodHead {
				t.Errorf("asked: %v", got)
			}
			if !s.kept(first, blob.Digest) || s.kept(second, blob.Digest) {
				t.Error("the copies hold something else")
			}
			s.wantNothingLeft()
		})
	}
}

// leave leaves bytes of a blob as an earlier process does.
func (s *site) leave(blob upstreamtest.Blob, arrived []byte) {
	s.t.Helper()
	fetch, err := s.registry.BeginFetch(s.t.Context(), hub, blob.Digest)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := fetch.ReadFrom(&endedReader{arrived}); err != nil {
		s.t.Fatal(err)
	}
	if err := fetch.Suspend(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

type endedReader struct{ left []byte }

func (r *endedReader) Read(p []byte) (int, error) {
	n := copy(p, r.left)
	if r.left = r.left[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// TestWrongBytesThatWereLeftHeal goes on with bytes that are not the blob's, as a loss of
// power may leave them.
func TestWrongBytesThatWereLeftHeal(t *testing.T) {
	t.Parallel()
	content := upstreamtest.Bytes(1, mega)
	for name, left := range map[string][]byte{
		"fewer":        make([]byte, half),
		"as many":      make([]byte, mega),
		"more":         make([]byte, mega+1),
		"and the blob": append(upstreamtest.Bytes(1, mega), 0),
	} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " known ", known), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, setup{})
				blob := s.up().AddImage(first, "latest", content).Layers[0]
				if known {
					s.get(manifestPath(first, "latest")).wantStatus(t, http.StatusOK)
				}
				s.leave(blob, left)
				// Who comes late enough finds them gone already.
				if r := s.get(blobPath(first, blob)); r.err == nil && r.status == http.StatusOK {
					r.want(t, http.StatusOK, content)
				}
				s.wantNothingLeft()
				s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
			})
		}
	}
}
