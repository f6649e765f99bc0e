//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// bulk is the content of an upstream's blob that is in no memory: its number, and then one
// block again and again.
type bulk struct {
	number uint64
	block  []byte
	size   int64
}

func (b bulk) ReadAt(p []byte, at int64) (int, error) {
	n := 0
	for n < len(p) && at+int64(n) < b.size {
		if offset := at + int64(n); offset < 8 {
			var head [8]byte
			binary.LittleEndian.PutUint64(head[:], b.number)
			n += copy(p[n:], head[offset:])
		} else {
			n += copy(p[n:min(int64(len(p)), b.size-at)], b.block[offset%int64(len(b.block)):])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (b bulk) reader() *io.SectionReader { return io.NewSectionReader(b, 0, b.size) }

func (b bulk) digest(t *testing.T) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, b.reader()); err != nil {
		t.Fatal(err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// TestACacheStaysWithinItsSize pulls 5 GiB, by several clients at once, through a cache
// that may have 1 GiB, and watches the disk.
func TestACacheStaysWithinItsSize(t *testing.T) {
	const blobs, size, maxSize, clients = 80, 64 << 20, 1 << 30, 3
	block := upstreamtest.Bytes(1, 1<<20)
	contents := make(map[string]bulk)
	var digests []string
	for i := range blobs {
		b := bulk{uint64(i), block, size}
		d := b.digest(t)
		contents[d], digests = b, append(digests, d)
	}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, ok := contents[path.Base(r.URL.Path)]
		if !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, b.reader())
	}))
	defer up.Close()
	p := startCache(t, cached("docker.io", up.URL), fmt.Sprintf("max_size %dB", maxSize), "min_free 0")
	send := p.client()
	private := upstreamtest.Bytes(2, 100<<20)
	manifest := mustPush(t, send, "team/app", "latest", private)

	var done atomic.Bool
	var watching, pulling sync.WaitGroup
	var most int64
	watching.Go(func() {
		for !done.Load() {
			n := folderSize(t, filepath.Join(p.storage, "blobs")) - int64(len(private))
			most = max(most, n)
			// The bytes of a blob come before its fact, and go after it.
			if n > maxSize+2*clients*size {
				t.Errorf("the cache takes %d bytes", n)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	var next atomic.Int64
	for range clients {
		pulling.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= blobs || t.Failed() {
					return
				}
				if err := pullBulk(p.url("/v2/docker.io/library/bulk/blobs/"+digests[i]), digests[i]); err != nil {
					t.Errorf("blob %d: %v", i, err)
				}
			}
		})
	}
	pulling.Wait()
	done.Store(true)
	watching.Wait()
	p.eventually("no transfer is under way", func() bool { return len(p.uploadFiles()) == 0 })
	n := folderSize(t, filepath.Join(p.storage, "blobs")) - int64(len(private))
	t.Logf("%d MiB were pulled; the files took %d MiB at most, and %d in the end", blobs*size>>20, most>>20, n>>20)
	if n > maxSize || n < maxSize/2 {
		t.Errorf("in the end the cache has %d bytes of %d", n, maxSize)
	}
	mustRead(t, send, "/v2/team/app/manifests/latest", manifest)
	mustRead(t, send, blobPath("team/app", private), private)
}

// pullBulk pulls a blob and checks its digest.
func pullBulk(url, digest string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h := sha256.New()
	n, err := io.Copy(h, resp.Body)
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); err == nil && (resp.StatusCode != http.StatusOK || got != digest) {
		err = fmt.Errorf("%s, %d bytes of %s", resp.Status, n, got)
	}
	return err
}

// folderSize returns how many bytes the files below a folder have.
func folderSize(t *testing.T, folder string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		if info, err := entry.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return n
}

// TestBulkIsWhatItSays checks the content that the test above makes.
func TestBulkIsWhatItSays(t *testing.T) {
	b := bulk{7, []byte("0123456789"), 35}
	whole, err := io.ReadAll(b.reader())
	if err != nil || len(whole) != 35 || !bytes.Equal(whole[8:12], []byte("8901")) {
		t.Errorf("%q, %v", whole, err)
	}
	part := make([]byte, 10)
	if n, err := b.ReadAt(part, 20); n != 10 || err != nil || !bytes.Equal(part, whole[20:30]) {
		t.Errorf("%d, %v, %q of %q", n, err, part, whole)
	}
}
