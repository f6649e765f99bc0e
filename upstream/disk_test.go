package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// disk is one that fails to take more than so many bytes, or on which so many are free.
type disk struct {
	storage.BlobStore
	fails error
	takes atomic.Int64
	free  atomic.Int64
}

func (d *disk) open(dir string) (storage.BlobStore, error) {
	store, err := filesystem.OpenDisk(dir, failingDisk{d})
	d.BlobStore = store
	return d, err
}

// Space implements [storage.SpaceReporter]: evicting gives free what a blob takes.
func (d *disk) Space() (storage.Space, error) {
	return storage.Space{Free: d.free.Load(), Total: 1 << 40}, nil
}

func (d *disk) Delete(ctx context.Context, key storage.BlobKey) error {
	blob, err := d.BlobStore.Open(ctx, key)
	if err == nil {
		n, _ := blob.Seek(0, io.SeekEnd)
		d.free.Add(n)
		blob.Close()
	}
	return d.BlobStore.Delete(ctx, key)
}

// failingDisk is the operating system's, with the files of a disk.
type failingDisk struct{ *disk }

func (d failingDisk) OpenFile(name string, flag int) (filesystem.File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	if flag&os.O_RDWR == 0 {
		return f, nil
	}
	return failingFile{f, d.disk}, nil
}

func (failingDisk) Rename(old, new string) error               { return os.Rename(old, new) }
func (failingDisk) Remove(name string) error                   { return os.Remove(name) }
func (failingDisk) MkdirAll(name string) error                 { return os.MkdirAll(name, 0o700) }
func (failingDisk) ReadDir(name string) ([]os.DirEntry, error) { return os.ReadDir(name) }
func (failingDisk) SyncDir(string) error                       { return nil }

type failingFile struct {
	*os.File
	disk *disk
}

func (f failingFile) Write(p []byte) (int, error) {
	if left := f.disk.takes.Add(-int64(len(p))); left < 0 {
		return 0, f.disk.fails
	}
	f.disk.free.Add(-int64(len(p)))
	return f.File.Write(p)
}

func newDisk(takes int64, fails error) *disk {
	d := &disk{fails: fails}
	d.takes.Store(takes)
	d.free.Store(1 << 30)
	return d
}

func TestADiskThatFailsWhileABlobArrives(t *testing.T) {
	for _, fails := range []error{syscall.ENOSPC, syscall.EIO} {
		for _, takes := range []int64{0, 3 * half} {
			t.Run(fmt.Sprint(fails, " after ", takes), func(t *testing.T) {
				t.Parallel()
				d := newDisk(takes, fails)
				s := newSite(t, setup{blobs: d.open})
				content := upstreamtest.Bytes(1, 2*mega)
				blob := s.up().AddBlob(first, content)
				release := make(chan struct{})
				undo := s.up().Fault(blobGet(0, 1), upstreamtest.Stall(mega, release))
				var clients sync.WaitGroup
				for _, header := range []string{"", "", "bytes=5-", "bytes=2000000-2000100", "bytes=-100"} {
					clients.Go(func() {
						r := s.get(blobPath(first, blob), "Range", header)
						if r.err != nil || r.status != http.StatusOK && r.status != http.StatusPartialContent || !bytes.Contains(content, r.body) || len(r.body) == 0 {
							t.Errorf("%q: %d, %d bytes, %v", header, r.status, len(r.body), r.err)
						}
					})
				}
				s.await("the first client", func() bool { return len(s.asked()) > 0 })
				close(release)
				clients.Wait()
				undo()
				if s.kept(first, blob.Digest) {
					t.Error("it is kept")
				}
				s.wantNothingLeft()

				// The last byte is held back all the same.
				d.takes.Store(takes)
				undo = s.up().Fault(blobGet(0, 0), upstreamtest.FlipByte(mega))
				s.get(blobPath(first, blob)).wantCut(t)
				s.get(blobPath(first, blob), "Range", "bytes=-5").wantCut(t)
				if c := s.counts.get(); c.mismatches == 0 {
					t.Error("no mismatch is counted")
				}
				undo()

				// What passes through goes on where it was cut.
				undo = s.up().Fault(blobGet(0, 3), upstreamtest.CutHalf())
				d.takes.Store(takes)
				s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
				undo()

				d.takes.Store(1 << 30)
				s.get(blobPath(first, blob)).want(t, http.StatusOK, content)
				if !s.kept(first, blob.Digest) {
					t.Error("it is not kept once there is room")
				}
				s.wantNothingLeft()
			})
		}
	}
}

func TestPassingThroughKeepsErrorsMeaning(t *testing.T) {
	d := newDisk(0, syscall.ENOSPC)
	s := newSite(t, setup{blobs: d.open})
	content := upstreamtest.Bytes(1, 1000)
	blob := s.up().AddBlob(first, content)
	s.get(blobPath(first, upstreamtest.Blob{Descriptor: described(digest.FromString("absent"))})).wantStatus(t, http.StatusNotFound)
	empty := s.up().AddBlob(first, nil)
	s.get(blobPath(first, empty)).want(t, http.StatusOK, nil)
	undo := s.up().Fault(blobGet(0, 0), upstreamtest.Chunked())
	if r := s.get(blobPath(first, blob)); r.status != http.StatusInsufficientStorage {
		t.Errorf("of unknown size: %d", r.status)
	}
	undo()
	undo = s.up().Fault(blobGet(0, 0), upstreamtest.Answer(http.StatusOK, "application/octet-stream", nil))
	s.get(blobPath(first, blob)).wantCut(t)
	undo()
	// An endless body ends where the disk does.
	d.takes.Store(mega)
	s.up().Fault(blobGet(0, 0), upstreamtest.Endless())
	s.get(blobPath(first, blob)).wantStatus(t, http.StatusInsufficientStorage)
	s.wantNothingLeft()
}

// TestARegistryThatIsMovedServesAll of what it has and of what it has not, and keeps nothing.
func TestARegistryThatIsMovedServesAll(t *testing.T) {
	t.Parallel()
	s := newSite(t, setup{})
	kept := s.up().AddImage(first, "kept", upstreamtest.Bytes(1, mega))
	s.get(manifestPath(first, "kept")).want(t, http.StatusOK, kept.Manifest.Content)
	s.get(blobPath(first, kept.Layers[0])).want(t, http.StatusOK, kept.Layers[0].Content)
	s.await("the blob is kept", func() bool { return s.kept(first, kept.Layers[0].Digest) })
	if err := s.registry.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	cold := s.up().AddImage(first, "cold", upstreamtest.Bytes(2, mega))
	for range 2 {
		for tag, image := range map[string]upstreamtest.Image{"kept": kept, "cold": cold} {
			s.get(manifestPath(first, tag)).want(t, http.StatusOK, image.Manifest.Content)
			for _, blob := range image.Blobs() {
				s.get(blobPath(first, blob)).want(t, http.StatusOK, blob.Content)
			}
		}
	}
	if s.kept(first, cold.Layers[0].Digest) {
		t.Error("something was kept")
	}
}

func TestTheCacheGivesWayToFreeSpace(t *testing.T) {
	d := newDisk(1<<40, nil)
	s := newSite(t, setup{blobs: d.open, minFree: 10 * mega})
	var blobs []upstreamtest.Blob
	for i := range 6 {
		blobs = append(blobs, s.up().AddBlob(first, upstreamtest.Bytes(uint64(i), mega)))
	}
	step := 0
	get := func(i int) {
		t.Helper()
		s.get(blobPath(first, blobs[i])).want(t, http.StatusOK, blobs[i].Content)
		s.settle()
		step++
		s.pulledLater(blobs[i], step)
	}
	wantKept := func(want ...int) {
		t.Helper()
		for i, blob := range blobs {
			if kept := s.kept(first, blob.Digest); kept != slices.Contains(want, i) {
				t.Errorf("blob %d is kept: %v", i, kept)
			}
		}
	}
	// Blob 3 is a private repository's too.
	s.push("own/app", blobs[3])
	for _, i := range []int{3, 1, 2, 0} {
		get(i)
	}
	d.free.Store(11 * mega)
	get(4) // fits
	wantKept(0, 1, 2, 3, 4)
	get(5) // does not, so that the one goes that was pulled first
	wantKept(0, 2, 3, 4, 5)
	get(1) // comes back
	wantKept(0, 1, 3, 4, 5)

	// What does not fit into an empty cache pushes nothing out.
	huge := s.up().AddImage(first, "huge", upstreamtest.Bytes(9, 9*mega)).Layers[0]
	s.get(manifestPath(first, "huge")).wantStatus(t, http.StatusOK)
	s.get(blobPath(first, huge)).want(t, http.StatusOK, huge.Content)
	wantKept(0, 1, 3, 4, 5)
	if s.kept(first, huge.Digest) {
		t.Error("it is kept")
	}

	// Others fill the disk: all goes that may, and nothing is kept.
	d.free.Store(0)
	get(2)
	wantKept(3)
	s.get("own/app/blobs/"+blobs[3].Digest.String()).want(t, http.StatusOK, blobs[3].Content)
	get(4)
	wantKept(3)

	// So does what is left of transfers that broke off.
	s.leave(upstreamtest.Blob{Descriptor: described(digest.FromString("never"))}, make([]byte, 100))
	get(4)
	wantKept(3)
	s.wantNothingLeft()
	d.free.Store(1 << 30)
	get(4)
	wantKept(3, 4)
	s.wantNothingLeft()
}

// push makes a blob a private repository's.
func (s *site) push(repository string, blob upstreamtest.Blob) {
	s.t.Helper()
	if err := s.registry.PushBlob(s.t.Context(), repository, bytes.NewReader(blob.Content), blob.Digest); err != nil {
		s.t.Fatal(err)
	}
}

// pulledLater has a blob pulled in so many hours.
func (s *site) pulledLater(blob upstreamtest.Blob, hours int) {
	s.t.Helper()
	at := time.Now().Add(time.Duration(hours) * time.Hour)
	if err := s.registry.Pulled(s.t.Context(), map[digest.Digest]time.Time{blob.Digest: at}); err != nil {
		s.t.Fatal(err)
	}
}
