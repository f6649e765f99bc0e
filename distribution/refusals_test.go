package distribution_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	ociManifest = imagespec.MediaTypeImageManifest
	ociIndex    = imagespec.MediaTypeImageIndex
)

func TestBadNamesAreRefused(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/b", nil)
	for _, name := range []string{
		"..", "a/../b", "a/..", "a//b", "/a", "a/", "A", "a_/b", "-a", "a..b", "a___b", "a%2fb", "a%2Fb", "%2e%2e/b", "a%00b",
		strings.Repeat("a", 256), "ä", "a b",
	} {
		escaped := strings.ReplaceAll(name, " ", "%20")
		for _, c := range []struct{ method, path string }{
			{http.MethodGet, "/manifests/v1"},
			{http.MethodPut, "/manifests/v1"},
			{http.MethodGet, "/tags/list"},
			{http.MethodPost, "/blobs/uploads/"},
			{http.MethodGet, "/blobs/" + digest.FromString("x").String()},
			{http.MethodGet, "/referrers/" + digest.FromString("x").String()},
		} {
			var body []byte
			if c.method == http.MethodPut {
				body = manifest
			}
			s.do(c.method, "/v2/"+escaped+c.path, body, "Content-Type", ociManifest).wantError(t, http.StatusBadRequest, "NAME_INVALID")
		}
	}
	s.do(http.MethodGet, "/v2/"+strings.Repeat("a", 255)+"/tags/list", nil).wantError(t, http.StatusNotFound, "NAME_UNKNOWN")
}

func TestAnotherRegistrysNameTakesNoPush(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/b", nil)
	for _, name := range []string{"ghcr.io/a/b", "docker.io/library/alpine", "localhost:5000/a", "registry.example.com/x", "my.image"} {
		s.do(http.MethodPost, "/v2/"+name+"/blobs/uploads/", nil).wantError(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
		s.do(http.MethodPut, "/v2/"+name+"/manifests/v1", manifest, "Content-Type", ociManifest).wantError(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
		s.do(http.MethodPatch, "/v2/"+name+"/blobs/uploads/1", []byte("x")).wantError(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
	}
	s.do(http.MethodGet, "/v2/ghcr.io/a/b/manifests/v1", nil).wantError(t, http.StatusNotFound, "NAME_UNKNOWN")
}

func TestBadReferencesAreRefused(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/b", nil)
	for reference, code := range map[string]string{
		strings.Repeat("t", 129):            "MANIFEST_INVALID",
		".v1":                               "MANIFEST_INVALID",
		"-v1":                               "MANIFEST_INVALID",
		"v%201":                             "MANIFEST_INVALID",
		"v%2f1":                             "MANIFEST_INVALID",
		"sha256:abc":                        "DIGEST_INVALID",
		"sha256:" + strings.Repeat("g", 64): "DIGEST_INVALID",
		"md5:" + strings.Repeat("0", 32):    "DIGEST_INVALID",
		"sha384:" + strings.Repeat("0", 96): "DIGEST_INVALID",
		"sha256:" + strings.Repeat("A", 64): "DIGEST_INVALID",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			s.do(method, "/v2/a/b/manifests/"+reference, manifest, "Content-Type", ociManifest).wantError(t, http.StatusBadRequest, code)
		}
	}
	s.putManifest("a/b", strings.Repeat("t", 128), manifest).want(t, http.StatusCreated)
	s.do(http.MethodGet, "/v2/a/b/blobs/sha256:abc", nil).wantError(t, http.StatusBadRequest, "DIGEST_INVALID")
	s.do(http.MethodGet, "/v2/a/b/referrers/sha256:abc", nil).wantError(t, http.StatusBadRequest, "DIGEST_INVALID")
}

func TestBadManifestsAreRefused(t *testing.T) {
	s := newServer(t, "")
	good := s.image("a/b", nil)
	image := func(edit func(*imagespec.Manifest)) []byte { return s.image("a/b", edit) }
	for name, c := range map[string]struct {
		manifest    []byte
		contentType string
		status      int
		code        string
	}{
		"not JSON":                    {[]byte("hello"), ociManifest, 400, "MANIFEST_INVALID"},
		"empty":                       {[]byte{}, ociManifest, 400, "MANIFEST_INVALID"},
		"JSON but no object":          {[]byte(`[]`), ociManifest, 400, "MANIFEST_INVALID"},
		"cut off":                     {good[:len(good)-1], ociManifest, 400, "MANIFEST_INVALID"},
		"more JSON after it":          {append(good[:len(good):len(good)], "{}"...), ociManifest, 400, "MANIFEST_INVALID"},
		"type contradicts":            {good, ociIndex, 400, "MANIFEST_INVALID"},
		"type of nobody's":            {good, "application/json", 400, "MANIFEST_INVALID"},
		"schema 1":                    {[]byte(`{"schemaVersion":1}`), "application/vnd.docker.distribution.manifest.v1+prettyjws", 400, "MANIFEST_INVALID"},
		"no type at all":              {[]byte(`{"schemaVersion":2}`), "", 400, "MANIFEST_INVALID"},
		"malformed Content-Type":      {good, "application/", 400, "MANIFEST_INVALID"},
		"no schemaVersion":            {[]byte(`{"config":{}}`), ociManifest, 400, "MANIFEST_INVALID"},
		"an index with layers":        {[]byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`), ociIndex, 400, "MANIFEST_INVALID"},
		"an image with manifests":     {append(good[:len(good)-1:len(good)-1], `,"manifests":[]}`...), ociManifest, 400, "MANIFEST_INVALID"},
		"malformed layer digest":      {image(func(m *imagespec.Manifest) { m.Layers[0].Digest = "sha256" }), ociManifest, 400, "MANIFEST_INVALID"},
		"malformed subject":           {image(func(m *imagespec.Manifest) { m.Subject = &imagespec.Descriptor{} }), ociManifest, 400, "MANIFEST_INVALID"},
		"missing layer":               {image(func(m *imagespec.Manifest) { m.Layers[0].Digest = digest.FromString("absent") }), ociManifest, 400, "MANIFEST_BLOB_UNKNOWN"},
		"missing config":              {image(func(m *imagespec.Manifest) { m.Config.Digest = digest.FromString("absent") }), ociManifest, 400, "MANIFEST_BLOB_UNKNOWN"},
		"layer of an unkept digest":   {image(func(m *imagespec.Manifest) { m.Layers[0].Digest = "blake3:" + digest.Digest(strings.Repeat("0", 64)) }), ociManifest, 400, "MANIFEST_BLOB_UNKNOWN"},
		"4 MiB and one byte":          {append(good[:len(good):len(good)], bytes.Repeat([]byte(" "), 4<<20+1-len(good))...), ociManifest, 413, "SIZE_INVALID"},
		"annotations that are no map": {append(good[:len(good)-1:len(good)-1], `,"annotations":3}`...), ociManifest, 400, "MANIFEST_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			headers := []string{"Content-Type", c.contentType}
			if c.contentType == "" {
				headers = nil
			}
			s.do(http.MethodPut, "/v2/a/b/manifests/bad", c.manifest, headers...).wantError(t, c.status, c.code)
			// The same without a length.
			s.send(http.MethodPut, "/v2/a/b/manifests/bad", struct{ io.Reader }{bytes.NewReader(c.manifest)}, headers...).wantError(t, c.status, c.code)
			s.do(http.MethodGet, "/v2/a/b/manifests/bad", nil).want(t, http.StatusNotFound)
			s.do(http.MethodGet, "/v2/a/b/manifests/"+digest.FromBytes(c.manifest).String(), nil).want(t, http.StatusNotFound)
		})
	}
	t.Run("4 MiB to the byte is taken", func(t *testing.T) {
		s.do(http.MethodPut, "/v2/a/b/manifests/big", append(good[:len(good):len(good)], bytes.Repeat([]byte(" "), 4<<20-len(good))...), "Content-Type", ociManifest).want(t, http.StatusCreated)
	})
	t.Run("another digest than the path's", func(t *testing.T) {
		s.putManifest("a/b", digest.FromString("x").String(), good).wantError(t, http.StatusBadRequest, "DIGEST_INVALID")
	})
}

func TestBadUploadsAreRefusedAndLeaveNothing(t *testing.T) {
	s := newServer(t, "")
	content := []byte("content")
	d, other := digest.FromBytes(content).String(), digest.FromString("other").String()
	for name, c := range map[string]struct {
		send   func() answer
		status int
		code   string
	}{
		"single POST, wrong digest": {func() answer {
			return s.do(http.MethodPost, "/v2/a/b/blobs/uploads/?digest="+other, content)
		}, 400, "DIGEST_INVALID"},
		"single POST, malformed digest": {func() answer {
			return s.do(http.MethodPost, "/v2/a/b/blobs/uploads/?digest=sha256:x", content)
		}, 400, "DIGEST_INVALID"},
		"single POST, digest of another algorithm": {func() answer {
			return s.do(http.MethodPost, "/v2/a/b/blobs/uploads/?digest=md5:900150983cd24fb0d6963f7d28e17f72", content)
		}, 400, "DIGEST_INVALID"},
		"unknown digest-algorithm": {func() answer {
			return s.do(http.MethodPost, "/v2/a/b/blobs/uploads/?digest-algorithm=md5", nil)
		}, 400, "DIGEST_INVALID"},
		"mount of a malformed digest": {func() answer {
			return s.do(http.MethodPost, "/v2/a/b/blobs/uploads/?mount=x", nil)
		}, 400, "DIGEST_INVALID"},
		"PUT, wrong digest": {func() answer {
			return s.do(http.MethodPut, s.startUpload("a/b")+"?digest="+other, content)
		}, 400, "DIGEST_INVALID"},
		"PUT, wrong digest of another algorithm": {func() answer {
			return s.do(http.MethodPut, s.startUpload("a/b")+"?digest="+digest.SHA512.FromString("other").String(), content)
		}, 400, "DIGEST_INVALID"},
		"PUT after PATCH, wrong digest": {func() answer {
			location := s.startUpload("a/b")
			s.do(http.MethodPatch, location, content).want(t, http.StatusAccepted)
			return s.do(http.MethodPut, location+"?digest="+other, nil)
		}, 400, "DIGEST_INVALID"},
		"PUT without a digest": {func() answer {
			return s.do(http.MethodPut, s.startUpload("a/b"), content)
		}, 400, "DIGEST_INVALID"},
		"unknown upload": {func() answer {
			return s.do(http.MethodPatch, "/v2/a/b/blobs/uploads/11111111-1111-1111-1111-111111111111", content)
		}, 404, "BLOB_UPLOAD_UNKNOWN"},
		"an upload that is a path": {func() answer {
			return s.do(http.MethodPatch, "/v2/a/b/blobs/uploads/..%2f..%2fregistry.db", content)
		}, 404, "BLOB_UPLOAD_UNKNOWN"},
		"another repository's upload": {func() answer {
			return s.do(http.MethodPut, strings.Replace(s.startUpload("a/b"), "a/b", "a/c", 1)+"?digest="+d, content)
		}, 404, "BLOB_UPLOAD_UNKNOWN"},
		"Content-Range in HTTP's grammar": {func() answer {
			return s.do(http.MethodPatch, s.startUpload("a/b"), content, "Content-Range", "bytes 0-6/7")
		}, 400, "BLOB_UPLOAD_INVALID"},
		"Content-Range backwards": {func() answer {
			return s.do(http.MethodPatch, s.startUpload("a/b"), content, "Content-Range", "6-0")
		}, 400, "BLOB_UPLOAD_INVALID"},
		"Content-Range of too large numbers": {func() answer {
			return s.do(http.MethodPatch, s.startUpload("a/b"), content, "Content-Range", "0-9223372036854775807")
		}, 400, "BLOB_UPLOAD_INVALID"},
		"Content-Range of another length": {func() answer {
			return s.do(http.MethodPatch, s.startUpload("a/b"), content, "Content-Range", "0-5")
		}, 400, "SIZE_INVALID"},
		"more than Content-Range says, streamed": {func() answer {
			return s.send(http.MethodPatch, s.startUpload("a/b"), struct{ io.Reader }{bytes.NewReader(content)}, "Content-Range", "0-5")
		}, 400, "SIZE_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			c.send().wantError(t, c.status, c.code)
			s.do(http.MethodGet, "/v2/a/b/blobs/"+d, nil).want(t, http.StatusNotFound)
			s.do(http.MethodGet, "/v2/a/b/blobs/"+other, nil).want(t, http.StatusNotFound)
			s.wantNoUploads()
		})
	}
}

func TestCutRequestLeavesNothing(t *testing.T) {
	s := newServer(t, "")
	content := []byte("content")
	d := digest.FromBytes(content).String()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v2/a/b/blobs/uploads/?digest="+d, io.MultiReader(bytes.NewReader(content), failingReader{}))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 100 // more than comes
	if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusCreated {
			t.Error("a part was taken for the whole")
		}
	}
	s.do(http.MethodGet, "/v2/a/b/blobs/"+d, nil).want(t, http.StatusNotFound)
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestUnknownMethodsAndPathsAreRefused(t *testing.T) {
	s := newServer(t, "")
	d := digest.FromString("x").String()
	for _, c := range []struct{ method, path, allow string }{
		{http.MethodPost, "/v2/", "GET, HEAD"},
		{http.MethodPut, "/v2/_catalog", "GET, HEAD"},
		{http.MethodDelete, "/v2/a/b/tags/list", "GET, HEAD"},
		{http.MethodPatch, "/v2/a/b/manifests/v1", "DELETE, GET, PUT, HEAD"},
		{http.MethodPut, "/v2/a/b/blobs/" + d, "DELETE, GET, HEAD"},
		{http.MethodGet, "/v2/a/b/blobs/uploads/", "POST"},
		{http.MethodPost, "/v2/a/b/blobs/uploads/1", "DELETE, GET, PATCH, PUT, HEAD"},
		{"BREW", "/v2/a/b/manifests/v1", "DELETE, GET, PUT, HEAD"},
	} {
		a := s.do(c.method, c.path, nil)
		a.wantError(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
		if got := a.Header.Get("Allow"); got != c.allow {
			t.Errorf("%s %s: Allow %q, want %q", c.method, c.path, got, c.allow)
		}
	}
	for _, path := range []string{"/v2/a", "/v2/a/b/c", "/v2/manifests/x", "/v2/a/b/manifests/", "/v2/a/b/manifests/x/y", "/v2/a/b/tags/", "/v2/a/b/uploads/1"} {
		s.do(http.MethodGet, path, nil).wantError(t, http.StatusNotFound, "UNSUPPORTED")
	}
}

func TestUnknownContentIsNotFound(t *testing.T) {
	s := newServer(t, "")
	s.putManifest("a/b", "v1", s.image("a/b", nil)).want(t, http.StatusCreated)
	d := digest.FromString("absent").String()
	for path, code := range map[string]string{
		"/v2/a/b/manifests/absent": "MANIFEST_UNKNOWN",
		"/v2/a/b/manifests/" + d:   "MANIFEST_UNKNOWN",
		"/v2/a/b/blobs/" + d:       "BLOB_UNKNOWN",
		"/v2/a/c/manifests/v1":     "NAME_UNKNOWN",
		"/v2/a/c/tags/list":        "NAME_UNKNOWN",
	} {
		s.do(http.MethodGet, path, nil).wantError(t, http.StatusNotFound, code)
		if a := s.do(http.MethodHead, path, nil).want(t, http.StatusNotFound); len(a.body) > 0 {
			t.Errorf("HEAD %s has a body", path)
		}
	}
	for _, path := range []string{"/v2/a/b/manifests/absent", "/v2/a/b/manifests/" + d, "/v2/a/c/manifests/v1", "/v2/a/b/blobs/" + d} {
		s.do(http.MethodDelete, path, nil).want(t, http.StatusNotFound)
	}
}
