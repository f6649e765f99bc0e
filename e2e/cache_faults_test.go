//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestPullsSurviveCutUpstream has an upstream cut every blob at its half. The pull goes
// on from the last byte that came, and the client does not notice.
func TestPullsSurviveCutUpstream(t *testing.T) {
	up := upstreamtest.Start(t)
	r := startRegistry(t, cacheOf(cached("docker.io", up.URL()), "default docker.io"))
	check := func(t *testing.T, repository string, pull func(name string, want *image)) {
		t.Helper()
		want := fileImage(t)
		publish(t, up, repository, "v1", want)
		blobs := blobsOf(t, want)
		cutHalves(up, blobs...)
		pull("docker.io/"+repository+":v1", want)
		for _, d := range blobs {
			asked := up.Requests().Method(http.MethodGet).Path("/blobs/" + d.String())
			half := len(want.blobs[d]) / 2
			if ranges := asked.Ranges(); len(asked) != 2 || ranges[0] != "" || ranges[1] != fmt.Sprintf("bytes=%d-", half) {
				t.Errorf("a blob of %d bytes was asked for by %q", len(want.blobs[d]), ranges)
			}
		}
	}
	hosts := func(c *containerd) string {
		c.write("certs.d/docker.io/hosts.toml", fmt.Sprintf("server = \"https://docker.io\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", r.addr))
		return c.path("certs.d")
	}
	t.Run("containerd 1", func(t *testing.T) {
		c := startContainerd1(t)
		check(t, "library/containerd1", func(name string, want *image) {
			c.pulls(map[string]*image{name: want}, "--hosts-dir", hosts(c))
		})
	})
	t.Run("containerd 2, in parts", func(t *testing.T) {
		c := startContainerd2(t, r.in(t))
		check(t, "library/containerd2", func(name string, want *image) {
			c.pulls(map[string]*image{name: want}, "--hosts-dir", hosts(c))
		})
	})
	t.Run("docker", func(t *testing.T) {
		d := startDocker(t, r.in(t), "http://"+r.addr)
		check(t, "library/docker", func(name string, want *image) {
			d.command("pull", name)
			if got := d.file(name, "data"); !bytes.Equal(got, want.file(t, "data")) {
				t.Errorf("docker pulled %d other bytes", len(got))
			}
		})
	})
	t.Run("crane", func(t *testing.T) {
		crane, h := tool(t, "crane"), newHome(t)
		check(t, "library/crane", func(name string, want *image) {
			h.run(crane, "pull", "--format=oci", r.name(name), h.path("pulled"))
			want.wantLayout(t, h.path("pulled"))
		})
	})
}

// TestFlippedByteIsNeverDelivered has an upstream change one byte of a blob. No client
// ever gets an answer that looks complete, nor its last byte; nothing of it is kept.
func TestFlippedByteIsNeverDelivered(t *testing.T) {
	crane, curl, h := tool(t, "crane"), tool(t, "curl"), newHome(t)
	up := upstreamtest.Start(t)
	p := startCache(t, cached("docker.io", up.URL()), "default docker.io")
	send := p.client()
	for n, offset := range []int64{0, 1 << 20, 3<<20 - 1} {
		layer := upstreamtest.Bytes(uint64(n), 3<<20)
		image := up.AddImage("library/flipped", fmt.Sprint(n), layer)
		manifest := image.Manifest.Content
		mustRead(t, send, "/v2/library/flipped/manifests/"+fmt.Sprint(n), manifest)
		path := blobPath("library/flipped", layer)
		heal := up.Fault(upstreamtest.Match{Method: http.MethodGet, Path: "/blobs/" + string(digest.FromBytes(layer))}, upstreamtest.FlipByte(offset))

		if _, _, err := h.try(curl, "--silent", "--fail", "--output", h.path("got"), p.url(path)); err == nil {
			t.Errorf("offset %d: curl got %d bytes and was content", offset, len(h.read("got")))
		}
		name := "127.0.0.1:" + p.port + "/library/flipped@" + string(digest.FromBytes(layer))
		if _, _, err := h.try(crane, "blob", name); err == nil {
			t.Errorf("offset %d: crane was content", offset)
		}
		for _, from := range []int{0, 1, 2 << 20, len(layer) - 1} {
			wantCut(t, p.url(path), from, len(layer))
		}
		if files := p.uploadFiles(); len(files) > 0 {
			t.Errorf("offset %d: files of transfers stay: %v", offset, files)
		}

		heal()
		if got := h.run(crane, "blob", name); got != strings.TrimSuffix(string(layer), "\n") {
			t.Errorf("offset %d: once the upstream is right again crane gets %d other bytes", offset, len(got))
		}
		mustRead(t, send, path, layer)
	}
	if mismatches := p.metric(`registry_upstream_mismatches_total{upstream="docker.io"}`); mismatches < 3 {
		t.Errorf("%v mismatches were counted", mismatches)
	}
	if !strings.Contains(p.log(), "the upstream sent wrong bytes") {
		t.Error("nothing was logged of it")
	}
}

// wantCut fails the test if an answer with a blob's last byte is complete.
func wantCut(t *testing.T, url string, from, size int) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if from > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return // nothing of it came, not even a header
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	switch response.StatusCode {
	case http.StatusOK, http.StatusPartialContent:
		if err == nil || len(body) >= size-from {
			t.Errorf("from byte %d on: %s with %d of %d bytes, error %v", from, response.Status, len(body), size-from, err)
		}
	case http.StatusBadGateway:
	default:
		t.Errorf("from byte %d on: %s %s", from, response.Status, body)
	}
}
