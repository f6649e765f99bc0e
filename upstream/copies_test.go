package upstream

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestACopyTakesNoPush(t *testing.T) {
	s := newSite(t, setup{})
	image := s.up().AddImage(first, "latest", []byte("layer"))
	s.get(manifestPath(first, "latest")).want(t, http.StatusOK, image.Manifest.Content)
	for _, c := range []struct{ method, path string }{
		{http.MethodPut, manifestPath(first, "latest")},
		{http.MethodPost, hub + "/" + first + "/blobs/uploads/"},
		{http.MethodPost, hub + "/" + first + "/blobs/uploads/?digest=" + image.Layers[0].Digest.String()},
	} {
		resp := s.ask(c.method, c.path, "Content-Type", image.Manifest.MediaType)
		if r := readAll(resp); r.status != http.StatusMethodNotAllowed || !strings.Contains(string(r.body), "UNSUPPORTED") {
			t.Errorf("%s %s: %d %s", c.method, c.path, r.status, r.body)
		}
	}
	// Nor does storage let it in, whatever the name.
	m, err := storage.ParseManifest(image.Manifest.MediaType, image.Manifest.Content, image.Manifest.Digest.Algorithm())
	if err != nil {
		t.Fatal(err)
	}
	name := hub + "/" + first
	if _, err := s.registry.PutManifest(t.Context(), name, m, storage.Put{Tags: []string{"mine"}, Sparse: storage.SparseOn}); !errors.Is(err, storage.ErrCopy) {
		t.Errorf("PutManifest = %v", err)
	}
	if err := s.registry.PushBlob(t.Context(), name, bytes.NewReader(image.Layers[0].Content), image.Layers[0].Digest); !errors.Is(err, storage.ErrCopy) {
		t.Errorf("PushBlob = %v", err)
	}
}

// TestPrivateBytesAreNoWayIn asks a copy for a blob that only a private repository has.
func TestPrivateBytesAreNoWayIn(t *testing.T) {
	s := newSite(t, setup{})
	secret := upstreamtest.Blob{Content: []byte("secret")}
	secret.Descriptor = s.up().AddBlob("elsewhere/x", secret.Content).Descriptor
	s.up().AddBlob(first, []byte("other"))
	s.push("private/y", secret)
	s.get(blobPath(first, secret)).wantStatus(t, http.StatusNotFound)
	resp := s.ask(http.MethodHead, blobPath(first, secret))
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("HEAD is %d", resp.StatusCode)
	}
	if got := s.up().Requests().Path(first + "/blobs/"); len(got) == 0 {
		t.Error("the upstream was not asked")
	}
	if s.kept(first, secret.Digest) {
		t.Error("the copy holds it")
	}
	s.wantNothingLeft()
	// With the upstream away nothing is told of it, not even that it is here.
	s.up().Down()
	s.get(blobPath(second, secret)).wantStatus(t, http.StatusBadGateway)
	// Nor is what a copy holds a private repository's.
	s.up().Up()
	s.restart()
	cached := s.up().AddBlob(first, []byte("cached"))
	s.get(blobPath(first, cached)).want(t, http.StatusOK, cached.Content)
	s.settle()
	s.get("private/y/blobs/"+cached.Digest.String()).wantStatus(t, http.StatusNotFound)
	s.get("private/y/blobs/"+secret.Digest.String()).want(t, http.StatusOK, secret.Content)
}

// TestABlobThatIsPushedToo is fetched for a copy although its bytes are here, and stays
// the private repository's when the copy's go.
func TestABlobThatIsPushedToo(t *testing.T) {
	s := newSite(t, setup{})
	blob := s.up().AddBlob(first, []byte("layer"))
	s.push("private/y", blob)
	s.get(blobPath(first, blob)).want(t, http.StatusOK, blob.Content)
	if !s.kept(first, blob.Digest) {
		t.Error("the copy has it not")
	}
	if n := len(s.asked()); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if freed, err := s.registry.Evict(t.Context(), mega, nil); err != nil || freed != 0 {
		t.Errorf("Evict = %d, %v", freed, err)
	}
	s.get("private/y/blobs/"+blob.Digest.String()).want(t, http.StatusOK, blob.Content)
}

func TestManifestsThatCannotBeKeptAreServed(t *testing.T) {
	s := newSite(t, setup{})
	s.push(hub+"/"+first, upstreamtest.Blob{Content: []byte("x"), Descriptor: described("sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")})
	image := s.up().AddImage(first, "latest", []byte("layer"))
	// The name is this registry's own, for whatever reason: nothing of it is mixed.
	if r := s.get(manifestPath(first, "latest")); r.status == http.StatusOK {
		t.Error("a manifest was put into an own repository")
	}
	s.get(blobPath(first, image.Layers[0])).want(t, http.StatusOK, image.Layers[0].Content)
	if s.kept(first, image.Layers[0].Digest) {
		t.Error("a blob was put into an own repository")
	}
	s.wantNothingLeft()
}
