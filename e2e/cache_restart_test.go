//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestTransferGoesOnAfterRestart ends the server in the middle of a transfer. What has
// arrived is not asked for again.
func TestTransferGoesOnAfterRestart(t *testing.T) {
	const grace = "\tgrace_period 100ms\n\tmetrics\n"
	for _, test := range []struct {
		name      string
		end       func(*process)
		caddyfile func(string) string
		stays     bool // the client
	}{
		{"killed", (*process).kill, func(s string) string { return s }, true},
		{"stopped, nobody waits", (*process).stop, func(s string) string { return s }, false},
		{"stopped after its grace period", (*process).stop, func(s string) string { return strings.Replace(s, "\tmetrics\n", grace, 1) }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			up := upstreamtest.Start(t)
			layer := upstreamtest.Bytes(1, 8<<20)
			image := up.AddImage("o/x", "v1", layer)
			p := newProcess(t, test.caddyfile(cacheCaddyfile(cached("ghcr.io", up.URL()))))
			p.start()
			expect(t, http.StatusOK)(p.client()(http.MethodGet, "/v2/ghcr.io/o/x/manifests/v1", nil, nil))
			up.SetRate(4 << 20)
			client := p.open(blobPath("ghcr.io/o/x", layer))
			if err := client.take(3 << 20); err != nil {
				t.Fatal(err)
			}
			if !test.stays {
				client.Body.Close()
			}
			test.end(p)
			if test.stays && client.end(digest.FromBytes(layer)) == nil {
				t.Fatal("the client got all, so nothing was tested")
			}

			up.SetRate(0)
			up.Reset()
			p.start()
			mustPull(t, p.client(), "ghcr.io/o/x", "v1", image)
			asked := up.Requests().Method(http.MethodGet).Path(string(digest.FromBytes(layer)))
			if len(asked) != 1 {
				t.Fatalf("the upstream was asked for %v", asked)
			}
			from := rangeStart(t, asked[0])
			if from < 3<<20 {
				t.Errorf("asked from byte %d on, though %d had arrived", from, 3<<20)
			}
			if sent := asked.Sent(); sent != int64(len(layer))-from {
				t.Errorf("%d bytes were sent from %d on", sent, from)
			}
			// Once it is on disk it is as if nothing had happened.
			p.eventually("no transfer is under way", func() bool { return p.metric(`registry_transfers_active{upstream="ghcr.io"}`) == 0 })
			p.kill()
			p.start()
			up.Reset()
			mustPull(t, p.client(), "ghcr.io/o/x", "v1", image)
			if blobs := up.Requests().Blobs(); len(blobs) > 0 {
				t.Errorf("asked again for %v", blobs)
			}
			if files := p.uploadFiles(); len(files) > 0 {
				t.Errorf("files of transfers stay: %v", files)
			}
		})
	}
}

var openRange = regexp.MustCompile(`^bytes=(\d+)-$`)

// rangeStart returns from which byte on a request asks.
func rangeStart(t *testing.T, r upstreamtest.Request) int64 {
	t.Helper()
	match := openRange.FindStringSubmatch(r.Range())
	if match == nil {
		t.Fatalf("%v has no range, want one that goes on", r)
	}
	from, err := strconv.ParseInt(match[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

// TestReloadLeavesTransfersAlone reloads the configuration twice in the middle of cold
// pulls. Those that were begun before and those that are begun after read what the
// upstream is asked for once.
func TestReloadLeavesTransfersAlone(t *testing.T) {
	const layers = 8
	up := upstreamtest.Start(t)
	contents := make([][]byte, layers)
	for n := range contents {
		contents[n] = upstreamtest.Bytes(uint64(n), 4<<20)
	}
	image := up.AddImage("library/big", "v1", contents...)
	p := startCache(t, cached("docker.io", up.URL()), "default docker.io")
	send := p.client()
	expect(t, http.StatusOK)(send(http.MethodGet, "/v2/library/big/manifests/v1", nil, nil))
	up.SetRate(1300 << 10) // about 3 seconds

	var wg sync.WaitGroup
	failed := make(chan error, 4*layers)
	pull := func() {
		for _, content := range contents {
			client := p.open(blobPath("library/big", content))
			wg.Go(func() {
				if err := client.end(digest.FromBytes(content)); err != nil {
					failed <- err
				}
			})
		}
	}
	reload := func() {
		t.Helper()
		output, err := p.command("reload", "--config", p.config(), "--address", p.admin, "--force").CombinedOutput()
		if err != nil {
			t.Fatalf("caddy reload: %v\n%s", err, output)
		}
	}
	pull()
	for range 2 {
		time.Sleep(200 * time.Millisecond) // in which some bytes arrive
		if active := len(up.Requests().Blobs().Active()); active != layers {
			t.Fatalf("%d transfers are under way, want %d", active, layers)
		}
		reload()
		pull()
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Errorf("a pull failed: %v", err)
	}
	mustPull(t, send, "library/big", "v1", image)
	if sent, size := up.BytesSent(), image.Size(); sent != size {
		t.Errorf("%d bytes were asked for an image of %d, which is %.2f times: %s", sent, size, float64(sent)/float64(size), fmt.Sprint(up.Requests()))
	}
	p.eventually("no transfer is counted as under way", func() bool {
		return p.metric(`registry_transfers_active{upstream="docker.io"}`) == 0
	})
}

// TestColdBlobIsAskedForOnce has many clients want the same new blobs at once, whole and
// in parts, also just when they have arrived.
func TestColdBlobIsAskedForOnce(t *testing.T) {
	const blobs, clients = 100, 12
	up := upstreamtest.Start(t)
	var contents [][]byte
	for n := range blobs {
		contents = append(contents, upstreamtest.Bytes(uint64(n), 10<<10<<(n%6)))
	}
	image := up.AddImage("library/many", "v1", contents...)
	p := startCache(t, cached("docker.io", up.URL()), "default docker.io")
	expect(t, http.StatusOK)(p.client()(http.MethodGet, "/v2/library/many/manifests/v1", nil, nil))
	for n, content := range contents {
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				from := i % 4 * len(content) / 4
				time.Sleep(time.Duration(i*n%17) * 500 * time.Microsecond)
				a, err := p.client()(http.MethodGet, blobPath("library/many", content), http.Header{"Range": {fmt.Sprintf("bytes=%d-", from)}}, nil)
				if err != nil || digest.FromBytes(a.body) != digest.FromBytes(content[from:]) {
					t.Errorf("blob %d from %d on: %d bytes, status %d, error %v", n, from, len(a.body), a.status, err)
				}
			})
		}
		wg.Wait()
	}
	for _, blob := range image.Layers {
		if asked := up.Requests().Path("/blobs/" + blob.Digest.String()); len(asked) != 1 {
			t.Errorf("asked %d times for a blob: %v", len(asked), asked)
		}
	}
}
