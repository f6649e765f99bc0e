//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestCacheGivesWayToMinFree pulls more images than the disk holds. Old ones leave so
// that what must stay free does, and what was pushed is not touched.
func TestCacheGivesWayToMinFree(t *testing.T) {
	const minFree, layerSize, images = 12 << 20, 6 << 20, 14
	up := upstreamtest.Start(t)
	p := startWithSmallDisk(t, 64<<20, cacheCaddyfile(cached("docker.io", up.URL()), "default docker.io", fmt.Sprintf("min_free %dB", minFree)))
	send := p.client()
	kept := upstreamtest.Bytes(1000, 8<<20)
	manifest := mustPush(t, send, "team/app", "latest", kept)
	stop := keepPulling(t, p, "team/app", kept, manifest)
	var pulled []upstreamtest.Image
	for n := range images {
		image := up.AddImage("library/big", fmt.Sprint(n), upstreamtest.Bytes(uint64(n), layerSize))
		pulled = append(pulled, image)
		mustPull(t, send, "library/big", fmt.Sprint(n), image)
		// The database's log grows beside, by what it may.
		p.eventually("enough of the disk is free", func() bool { return p.room() >= minFree-(2<<20) })
	}
	if !strings.Contains(p.log(), "evicted") {
		t.Error("nothing was evicted, so nothing was tested")
	}
	up.Reset()
	mustPull(t, send, "library/big", fmt.Sprint(images-1), pulled[images-1])
	if asked := up.Requests().Blobs(); len(asked) > 0 {
		t.Errorf("the image that was pulled last was not kept: %v", asked)
	}
	mustPull(t, send, "library/big", "0", pulled[0])
	if asked := up.Requests().Blobs(); len(asked) == 0 {
		t.Error("the image that was pulled first was kept")
	}
	stop()
	mustRead(t, send, blobPath("team/app", kept), kept)
}

// TestCacheStreamsOnFullDisk: what there is no room for is pulled all the same, every
// byte as it must be, and nothing of it stays.
func TestCacheStreamsOnFullDisk(t *testing.T) {
	up := upstreamtest.Start(t)
	large := up.AddImage("library/large", "v1", upstreamtest.Bytes(2, 40<<20), upstreamtest.Bytes(3, 1<<20))
	layer := large.Layers[0].Content
	for _, test := range []struct{ name, minFree string }{
		{"what must stay free is not", "90%"},
		{"it is as full as it may be", "0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startWithSmallDisk(t, 32<<20, cacheCaddyfile(cached("docker.io", up.URL()), "default docker.io", "min_free "+test.minFree))
			send := p.client()
			// A blob that is larger than the disk.
			for range 2 {
				mustPull(t, send, "docker.io/library/large", "v1", large)
			}
			wantNoTransferFiles(t, p)
			a := expect(t, http.StatusPartialContent)(send(http.MethodGet, blobPath("library/large", layer), http.Header{"Range": {"bytes=41000000-"}}, nil))
			if digest.FromBytes(a.body) != digest.FromBytes(layer[41000000:]) {
				t.Errorf("the end of a blob that is not kept has %d other bytes", len(a.body))
			}
		})
	}
}

// TestCacheStreamsWithNoByteLeft: somebody else took all of the disk, so that not even
// that a manifest was pulled can be written down. Pulls go on, by whatever name, and
// with room again what is pulled is kept.
func TestCacheStreamsWithNoByteLeft(t *testing.T) {
	up := upstreamtest.Start(t)
	old := up.AddImage("library/old", "v1", upstreamtest.Bytes(1, 4<<20))
	small := up.AddImage("library/small", "v1", upstreamtest.Bytes(2, 1<<20))
	for _, test := range []struct{ name, minFree, repository string }{
		{"there is nothing to evict, and the name says the upstream", "0", "docker.io/library/small"},
		{"there is nothing to evict, and the name does not", "0", "library/small"},
		{"old images give way, and the name says the upstream", "5%", "docker.io/library/small"},
		{"old images give way, and the name does not", "5%", "library/small"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := startWithSmallDisk(t, 32<<20, cacheCaddyfile(cached("docker.io", up.URL()), "default docker.io", "min_free "+test.minFree))
			send := p.client()
			if test.minFree != "0" {
				mustPull(t, send, "docker.io/library/old", "v1", old)
			}
			free := p.fill()
			mustPull(t, send, test.repository, "v1", small)
			crane, h := tool(t, "crane"), newHome(t)
			h.run(crane, "pull", "--format=oci", "127.0.0.1:"+p.port+"/"+test.repository+":v1", h.path("pulled"))
			wantNoTransferFiles(t, p)
			free()
			mustPull(t, send, test.repository, "v1", small)
			up.Reset()
			mustPull(t, send, test.repository, "v1", small)
			if asked := up.Requests(); len(asked) > 0 {
				t.Errorf("with room again nothing is kept: %v", asked)
			}
		})
	}
}

func wantNoTransferFiles(t *testing.T, p *process) {
	t.Helper()
	p.eventually("no file of a transfer is left", func() bool { return len(p.uploadFiles()) == 0 })
}
