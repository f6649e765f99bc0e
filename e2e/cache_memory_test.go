//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// zeros are the bytes of a blob that nobody has in memory.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

const gigabyte = 1 << 30

// TestSlowReadersTakeNoMemory has a hundred clients read one blob of a gigabyte, slowly,
// while it arrives as fast as it can.
func TestSlowReadersTakeNoMemory(t *testing.T) {
	const readers, limit = 100, 100 << 20
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(zeros{}, 0, gigabyte)); err != nil {
		t.Fatal(err)
	}
	blob := digest.NewDigest(digest.SHA256, hash)
	var asked atomic.Int64
	up := httptest.NewServer(gigabyteRegistry(t, blob, &asked))
	defer up.Close()
	p := startCache(t, cached("ghcr.io", up.URL))
	send := p.client()
	expect(t, http.StatusOK)(send(http.MethodGet, "/v2/ghcr.io/o/zeros/manifests/v1", nil, nil))
	time.Sleep(time.Second) // what a start needs is not counted
	p.forgetPeak()
	idle := p.memory("VmRSS")

	path := "/v2/ghcr.io/o/zeros/blobs/" + blob.String()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var read atomic.Int64
	failed := make(chan error, readers)
	for range readers {
		wg.Go(func() {
			if err := readSlowly(ctx, p, path, &read); err != nil {
				failed <- err
			}
		})
	}
	whole := p.open(path)
	if err := whole.end(blob); err != nil {
		t.Errorf("the client that is not slow: %v", err)
	}
	p.eventually("the blob is kept", func() bool {
		info, err := os.Stat(filepath.Join(p.storage, "blobs", "sha256", blob.Encoded()[:2], blob.Encoded()))
		return err == nil && info.Size() == gigabyte
	})
	before := read.Load()
	time.Sleep(2 * time.Second) // they go on, from what is kept
	after := read.Load()
	peak := p.memory("VmHWM")
	cancel()
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Errorf("a slow client: %v", err)
	}
	if after == before {
		t.Error("the slow clients read nothing any more")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times for the blob", n)
	}
	t.Logf("idle %d MB, at most %d MB more; slow clients have read %d MB", idle>>20, (peak-idle)>>20, after>>20)
	if peak-idle > limit {
		t.Errorf("%d MB above idle, at most %d are allowed", (peak-idle)>>20, limit>>20)
	}
}

// readSlowly reads a blob at less than a megabyte a second until ctx ends.
func readSlowly(ctx context.Context, p *process, path string, read *atomic.Int64) error {
	conn, err := net.Dial("tcp", "127.0.0.1:"+p.port)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10) // so that it is the server who waits
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", path); err != nil {
		return err
	}
	buffer := make([]byte, 32<<10)
	for ctx.Err() == nil {
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		if read.Add(int64(n)) == int64(n) && !strings.HasPrefix(string(buffer), "HTTP/1.1 200 ") {
			return fmt.Errorf("answer %.100s", buffer)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// gigabyteRegistry is a registry with one image, whose layer is zeros.
func gigabyteRegistry(t *testing.T, layer digest.Digest, asked *atomic.Int64) http.Handler {
	t.Helper()
	manifest, err := json.Marshal(imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imagespec.MediaTypeImageManifest,
		Config:    imagespec.DescriptorEmptyJSON,
		Layers:    []imagespec.Descriptor{{MediaType: imagespec.MediaTypeImageLayer, Digest: layer, Size: gigabyte}},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/v2/o/zeros/manifests/v1", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", imagespec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(manifest).String())
		_, _ = w.Write(manifest)
	})
	mux.HandleFunc("/v2/o/zeros/blobs/"+layer.String(), func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(zeros{}, 0, gigabyte))
	})
	return mux
}

// forgetPeak has the kernel forget how much memory the server had so far.
func (p *process) forgetPeak() {
	p.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0); err != nil {
		p.t.Fatal(err)
	}
}

var kilobytes = regexp.MustCompile(`(?m)^(\w+):\s+(\d+) kB$`)

// memory returns a field of the kernel's account of the server, in bytes.
func (p *process) memory(field string) int64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for _, match := range kilobytes.FindAllStringSubmatch(string(status), -1) {
		if match[1] == field {
			n, _ := strconv.ParseInt(match[2], 10, 64) // only digits
			return n << 10
		}
	}
	p.t.Fatalf("the kernel does not tell %s", field)
	return 0
}
