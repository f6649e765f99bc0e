//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// cached returns the lines of an upstream's configuration, with options besides its URL.
func cached(name, url string, options ...string) string {
	return fmt.Sprintf("upstream %s {\n\turl %s\n\t%s\n}", name, url, strings.Join(options, "\n\t"))
}

// cacheOf returns a registry_cache directive with lines in its block.
func cacheOf(lines ...string) string {
	return "registry_cache {\n" + strings.Join(lines, "\n") + "\n}"
}

// cacheCaddyfile is a registry as it is usually served, that caches others too.
func cacheCaddyfile(lines ...string) string {
	return strings.Replace(registryCaddyfile, "\tregistry\n}", cacheOf(lines...)+"\n\tregistry\n}", 1)
}

// startCache returns a registry that caches others, and serves.
func startCache(t *testing.T, lines ...string) *process {
	t.Helper()
	p := newProcess(t, cacheCaddyfile(lines...))
	p.start()
	return p
}

// publish makes an image, or an index with its images, part of an upstream.
func publish(t *testing.T, up *upstreamtest.Registry, repository, tag string, i *image) {
	t.Helper()
	for _, content := range i.blobs {
		up.AddBlob(repository, content)
	}
	for _, child := range i.index(t).Manifests {
		up.AddManifest(repository, "", child.MediaType, i.blobs[child.Digest])
	}
	up.AddManifest(repository, tag, i.MediaType, i.blobs[i.Digest])
}

// size returns how many bytes all of an image's blobs have, without its manifests.
func (i *image) size(t *testing.T) int64 {
	t.Helper()
	var size int64
	for d, content := range i.blobs {
		if !i.isManifest(t, d) {
			size += int64(len(content))
		}
	}
	return size
}

func (i *image) isManifest(t *testing.T, d digest.Digest) bool {
	t.Helper()
	if d == i.Digest {
		return true
	}
	for _, child := range i.index(t).Manifests {
		if child.Digest == d {
			return true
		}
	}
	return false
}

// blob is content as a client sees it while it arrives.
type blob struct {
	*http.Response
	hash digest.Digester
	n    int64
}

// open begins to read a blob or a manifest.
func (p *process) open(path string) *blob {
	p.t.Helper()
	response, err := http.Get(p.url(path))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		p.t.Fatalf("GET %s: %s %s", path, response.Status, body)
	}
	return &blob{response, digest.Canonical.Digester(), 0}
}

// take reads n bytes more.
func (b *blob) take(n int64) error {
	got, err := io.CopyN(b.hash.Hash(), b.Body, n)
	b.n += got
	return err
}

// end reads what is left, and returns an error unless all bytes of the blob came.
func (b *blob) end(want digest.Digest) error {
	n, err := io.Copy(b.hash.Hash(), b.Body)
	b.n += n
	if err != nil {
		return fmt.Errorf("after %d bytes: %w", b.n, err)
	}
	if got := b.hash.Digest(); got != want {
		return fmt.Errorf("%d bytes with digest %s, want %s", b.n, got, want)
	}
	return nil
}

// mustPull pulls an image by its tag with all that it consists of, as clients do that
// know no more of it, and checks every byte. It returns the X-Registry-Cache headers of
// the manifest and of the blobs.
func mustPull(t *testing.T, send sender, repository, tag string, want upstreamtest.Image) (results []string) {
	t.Helper()
	manifest := expect(t, http.StatusOK)(send(http.MethodGet, "/v2/"+repository+"/manifests/"+tag, nil, nil))
	if !bytes.Equal(manifest.body, want.Manifest.Content) {
		t.Fatalf("%s:%s is %s, want %s", repository, tag, digest.FromBytes(manifest.body), want.Manifest.Digest)
	}
	results = append(results, manifest.header.Get("X-Registry-Cache"))
	for _, blob := range want.Blobs() {
		a := expect(t, http.StatusOK)(send(http.MethodGet, "/v2/"+repository+"/blobs/"+blob.Digest.String(), nil, nil))
		if !bytes.Equal(a.body, blob.Content) {
			t.Fatalf("blob of %s is %s, want %s", repository, digest.FromBytes(a.body), blob.Digest)
		}
		results = append(results, a.header.Get("X-Registry-Cache"))
	}
	return results
}

// cutHalves has an upstream cut each blob of an image once, at its half.
func cutHalves(up *upstreamtest.Registry, blobs ...digest.Digest) {
	for _, d := range blobs {
		up.Fault(upstreamtest.Match{Method: http.MethodGet, Path: "/blobs/" + d.String(), First: 1}, upstreamtest.CutHalf())
	}
}

// blobsOf returns the digests of an image's blobs.
func blobsOf(t *testing.T, i *image) (blobs []digest.Digest) {
	t.Helper()
	for d := range i.blobs {
		if !i.isManifest(t, d) {
			blobs = append(blobs, d)
		}
	}
	return blobs
}

// metric returns the value of a sample on a server's metrics page, 0 if it is not there.
func (p *process) metric(sample string) float64 {
	p.t.Helper()
	response, err := http.Get(p.url("/metrics"))
	if err != nil {
		p.t.Fatal(err)
	}
	a, err := readAnswer(response)
	if err != nil {
		p.t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(sample) + ` (.+)$`).FindSubmatch(a.body)
	if line == nil {
		return 0
	}
	value, err := strconv.ParseFloat(string(line[1]), 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return value
}

// accessLog returns the entries of a server's access log for a path.
func (p *process) accessLog(path string) []accessEntry {
	p.t.Helper()
	var entries []accessEntry
	for line := range strings.Lines(p.log()) {
		if !strings.Contains(line, `"handled request"`) {
			continue
		}
		entry := decode[accessEntry](p.t, []byte(line))
		if entry.Request.URI == path {
			entries = append(entries, entry)
		}
	}
	return entries
}

// accessEntry is what of an access log's line is looked at.
type accessEntry struct {
	Request struct{ Method, URI string }
	Status  int

	Repository string `json:"registry_repo"`
	Operation  string `json:"registry_operation"`
	Cache      string `json:"registry_cache"`
}

// wantLayout fails the test unless a folder has the image, and nothing else.
func (i *image) wantLayout(t *testing.T, dir string) {
	t.Helper()
	i.wantSame(t, readLayout(t, os.DirFS(dir)))
}

// fileImage returns an image for this machine of one file with new content, in a layer
// that is fetched in several parts.
func fileImage(t *testing.T) *image {
	t.Helper()
	return newImage(t, runtime.GOARCH, map[string][]byte{"data": randomBytes(3*fetchBuffer + 100)})
}
