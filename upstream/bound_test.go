package upstream

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// copied returns how many bytes are cached.
func (s *site) copied() int64 {
	s.t.Helper()
	n, err := s.registry.CopiedBytes(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// onDisk returns how many bytes the files of a folder of the storage have.
func (s *site) onDisk(folder string) (n int64) {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.dir, folder), func(_ string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
	return n
}

// wantGet pulls a blob and checks its bytes.
func (s *site) wantGet(blob upstreamtest.Blob) {
	s.t.Helper()
	r := s.get(blobPath(first, blob))
	if r.err != nil || r.status != http.StatusOK || !bytes.Equal(r.body, blob.Content) {
		s.t.Errorf("%d, %d bytes of %d, %v", r.status, len(r.body), len(blob.Content), r.err)
	}
}

// TestACacheNeverOutgrowsItsSize has many clients pull more than fits, some of it again
// and again, while what is on the disk is watched.
func TestACacheNeverOutgrowsItsSize(t *testing.T) {
	const maxSize = 2 * mega
	s := newSite(t, setup{maxSize: maxSize})
	var blobs []upstreamtest.Blob
	random := rand.New(rand.NewPCG(1, 2))
	var total int64
	for i := range 60 {
		blob := s.up().AddBlob(first, upstreamtest.Bytes(uint64(i+1), 1+random.IntN(mega/4)))
		blobs = append(blobs, blob)
		total += int64(len(blob.Content))
	}
	if total < 2*maxSize {
		t.Fatalf("%d bytes are too few", total)
	}
	private := upstreamtest.Blob{Content: upstreamtest.Bytes(1000, mega)}
	private.Digest = digest.FromBytes(private.Content)
	s.push("own", private)
	var done atomic.Bool
	var clients, watchers sync.WaitGroup
	watchers.Go(func() {
		for !done.Load() {
			if n := s.copied(); n > maxSize {
				t.Errorf("%d bytes are cached of %d", n, maxSize)
				return
			}
			// Files are removed after their facts, and are there before them: for a moment
			// those of as many blobs as there are clients may be there besides.
			if n := s.onDisk("blobs"); n > maxSize+mega+4*mega/4 {
				t.Errorf("the files have %d bytes", n)
				return
			}
		}
	})
	for i := range 4 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			for range 40 {
				s.wantGet(blobs[random.IntN(len(blobs))])
			}
		})
	}
	clients.Wait()
	done.Store(true)
	watchers.Wait()
	s.settle()
	if n := s.copied(); n == 0 || n != s.onDisk("blobs")-mega {
		t.Errorf("%d bytes are counted as cached, the files have %d besides the private one", n, s.onDisk("blobs")-mega)
	}
	if s.transfers.reserved != 0 {
		t.Errorf("%d bytes are still reserved", s.transfers.reserved)
	}
	if _, err := s.registry.StatBlob(t.Context(), "own", private.Digest); err != nil {
		t.Errorf("the private blob: %v", err)
	}
}

func TestABlobThatDoesNotFitIsPassedThrough(t *testing.T) {
	s := newSite(t, setup{maxSize: mega})
	small := s.up().AddBlob(first, upstreamtest.Bytes(1, mega/2))
	big := s.up().AddBlob(first, upstreamtest.Bytes(2, 2*mega))
	s.wantGet(small)
	for range 2 {
		s.wantGet(big)
	}
	s.settle()
	if s.kept(first, big.Digest) || !s.kept(first, small.Digest) {
		t.Error("what fits must stay, and what does not is not kept")
	}
	s.wantNothingLeft()
}

func TestLeastRecentlyPulledLeavesFirstUnlessItIsKept(t *testing.T) {
	s := newSite(t, setup{maxSize: mega, keep: func(repository string) bool { return strings.HasSuffix(repository, "/kept") }})
	kept := s.up().AddBlob("kept", upstreamtest.Bytes(9, mega/4))
	if r := s.get(blobPath("kept", kept)); r.status != http.StatusOK {
		t.Fatal(r.status)
	}
	var blobs []upstreamtest.Blob
	for i := range 4 {
		blob := s.up().AddBlob(first, upstreamtest.Bytes(uint64(i+1), mega/4))
		blobs = append(blobs, blob)
		if i == 3 {
			s.pulledLater(blobs[0], 3)
			s.pulledLater(blobs[1], 1)
			s.pulledLater(blobs[2], 2)
		}
		s.wantGet(blob)
		s.settle()
	}
	if !s.kept(first, blobs[0].Digest) || s.kept(first, blobs[1].Digest) || !s.kept(first, blobs[2].Digest) || !s.kept(first, blobs[3].Digest) {
		t.Error("not the one left that was pulled least recently")
	}
	if _, err := s.registry.StatBlob(t.Context(), hub+"/kept", kept.Digest); err != nil {
		t.Errorf("what is to be kept: %v", err)
	}
}

// TestWhatAPrivateImageSharedCountsWhenItIsDeleted has the cache hold a blob with a
// private repository, which then is deleted: it is too much.
func TestWhatAPrivateImageSharedCountsWhenItIsDeleted(t *testing.T) {
	s := newSite(t, setup{maxSize: mega})
	shared := s.up().AddBlob(first, upstreamtest.Bytes(1, 3*mega/4))
	other := s.up().AddBlob(first, upstreamtest.Bytes(2, 3*mega/4))
	s.push("own", shared)
	s.wantGet(shared)
	s.settle()
	s.wantGet(other)
	s.settle()
	if n := s.copied(); n != 3*mega/4 {
		t.Errorf("%d bytes are counted, though one blob is private too", n)
	}
	if err := s.registry.DeleteBlob(t.Context(), "own", shared.Digest); err != nil {
		t.Fatal(err)
	}
	if n := s.copied(); n != 6*mega/4 {
		t.Errorf("%d bytes are counted now", n)
	}
	if err := s.room.Tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.copied(); n != 3*mega/4 {
		t.Errorf("%d bytes are cached still", n)
	}
}

func TestWhatIsNotPulledForLongLeaves(t *testing.T) {
	s := newSite(t, setup{})
	image := s.up().AddImage(first, "v1", upstreamtest.Bytes(1, 1000))
	used := s.up().AddImage(first, "v2", upstreamtest.Bytes(2, 1000))
	for _, image := range []upstreamtest.Image{image, used} {
		for _, path := range []string{manifestPath(first, image.Manifest.Digest.String()), blobPath(first, image.Layers[0])} {
			if r := s.get(path); r.status != http.StatusOK {
				t.Fatal(path, r.status)
			}
		}
	}
	s.settle()
	s.room.MaxIdle = time.Hour
	for _, step := range []struct{ idle, want string }{{"1", "both"}, {"7200", "one"}, {"7200", "one"}} {
		if err := s.registry.FlushPulls(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.sql(`UPDATE manifests SET created = created - ` + step.idle + `, pulled = pulled - ` + step.idle)
		s.sql(`UPDATE blobs SET created = created - ` + step.idle + `, pulled = pulled - ` + step.idle)
		if r := s.get(manifestPath(first, used.Manifest.Digest.String())); r.status != http.StatusOK {
			t.Fatal(r.status)
		}
		s.sql(`UPDATE manifests SET pulled = pulled + 7200 WHERE digest = '` + used.Manifest.Digest.String() + `'`)
		s.wantGet(used.Layers[0])
		if err := s.room.Tend(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.kept(first, image.Layers[0].Digest) != (step.want == "both") || !s.kept(first, used.Layers[0].Digest) {
			t.Errorf("after %s s: the idle layer is kept: %t, the other: %t", step.idle, s.kept(first, image.Layers[0].Digest), s.kept(first, used.Layers[0].Digest))
		}
	}
	stats, err := s.registry.Stats(t.Context())
	if err != nil || stats.Manifests != 1 {
		t.Errorf("%d manifests are left, %v, want 1", stats.Manifests, err)
	}
}

// sql changes the facts.
func (s *site) sql(statement string) {
	s.t.Helper()
	err := s.database.Write(s.t.Context(), func(tx storage.Tx) error {
		_, err := tx.Exec(statement)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}
