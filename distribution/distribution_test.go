package distribution_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// server is a registry on real storage.
type server struct {
	*httptest.Server
	t   *testing.T
	dir string
}

func newServer(t *testing.T, sparse storage.Sparse) *server {
	t.Helper()
	dir := t.TempDir()
	blobs, err := filesystem.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	database, err := sqlite.Open(t.Context(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	registry := storage.New(blobs, database)
	handler := &distribution.Handler{Registry: registry, Sparse: sparse, Log: slog.New(slog.DiscardHandler)}
	s := &server{httptest.NewServer(handler), t, dir}
	t.Cleanup(func() {
		s.Close()
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer is a response, read.
type answer struct {
	*http.Response
	body []byte
}

// do sends a request; headers are in pairs of key and value.
func (s *server) do(method, path string, body []byte, headers ...string) answer {
	s.t.Helper()
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	return s.send(method, path, reader, headers...)
}

func (s *server) send(method, path string, body io.Reader, headers ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.URL, body)
	if err != nil {
		s.t.Fatal(err)
	}
	// Not by parsing: the path is to be sent as it is written here.
	req.URL.Opaque = "//" + req.URL.Host + path
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp, content}
}

// want checks a status.
func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL.Opaque, a.StatusCode, status, a.body)
	}
	return a
}

// wantError checks a status and the code of the spec's JSON error.
func (a answer) wantError(t *testing.T, status int, code string) {
	t.Helper()
	a.want(t, status)
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatalf("%s %s: the body is no JSON error: %v: %q", a.Request.Method, a.Request.URL.Opaque, err, a.body)
	}
	if len(body.Errors) != 1 || body.Errors[0].Code != code || body.Errors[0].Message == "" {
		t.Fatalf("%s %s: %s, want code %s and a message", a.Request.Method, a.Request.URL.Opaque, a.body, code)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("error has Content-Type %q", got)
	}
}

// pushBlob pushes content as a blob and returns its digest.
func (s *server) pushBlob(repository string, content []byte) digest.Digest {
	s.t.Helper()
	d := digest.FromBytes(content)
	s.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d.String(), content).want(s.t, http.StatusCreated)
	return d
}

func (s *server) startUpload(repository string) (location string) {
	s.t.Helper()
	location = s.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil).want(s.t, http.StatusAccepted).Header.Get("Location")
	if !strings.HasPrefix(location, "/v2/"+repository+"/blobs/uploads/") {
		s.t.Fatalf("Location %q is not relative to the host", location)
	}
	return location
}

// image pushes the blobs of an image and returns its manifest.
func (s *server) image(repository string, edit func(*imagespec.Manifest)) []byte {
	s.t.Helper()
	config, layer := []byte("{}"), randomBytes(s.t, 100)
	m := imagespec.Manifest{
		MediaType: imagespec.MediaTypeImageManifest,
		Config:    descriptor(imagespec.MediaTypeImageConfig, config),
		Layers:    []imagespec.Descriptor{descriptor(imagespec.MediaTypeImageLayer, layer)},
	}
	m.SchemaVersion = 2
	s.pushBlob(repository, config)
	s.pushBlob(repository, layer)
	if edit != nil {
		edit(&m)
	}
	return marshal(s.t, m)
}

// putManifest pushes a manifest, of which the media type is in the document.
func (s *server) putManifest(repository, reference string, manifest []byte) answer {
	s.t.Helper()
	var fields struct{ MediaType string }
	if err := json.Unmarshal(manifest, &fields); err != nil {
		s.t.Fatal(err)
	}
	return s.do(http.MethodPut, "/v2/"+repository+"/manifests/"+reference, manifest, "Content-Type", fields.MediaType)
}

func descriptor(mediaType string, content []byte) imagespec.Descriptor {
	return imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func randomBytes(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPingAnswersAlikeWithAndWithoutSlash(t *testing.T) {
	s := newServer(t, "")
	for _, path := range []string{"/v2", "/v2/"} {
		a := s.do(http.MethodGet, path, nil).want(t, http.StatusOK)
		if got := a.Header.Get("Docker-Distribution-Api-Version"); got != "registry/2.0" {
			t.Errorf("%s: API version %q", path, got)
		}
	}
}

func TestNothingPushedRunsAsAPage(t *testing.T) {
	s := newServer(t, "")
	page := []byte("<script>alert(1)</script>")
	d := s.pushBlob("a/page", page)
	for _, path := range []string{"/v2/", "/v2/a/page/blobs/" + d.String(), "/v2/a/page/manifests/absent", "/v2/A/manifests/x"} {
		a := s.do(http.MethodGet, path, nil)
		if a.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(a.Header.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("%s: headers let a browser run it: %v", path, a.Header)
		}
	}
	if got := s.do(http.MethodGet, "/v2/a/page/blobs/"+d.String(), nil).Header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("blob has Content-Type %q", got)
	}
	s.do(http.MethodPut, "/v2/a/page/manifests/page", page, "Content-Type", "text/html").wantError(t, http.StatusBadRequest, "MANIFEST_INVALID")
}

func TestPushedImageComesBack(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/image", nil)
	d := digest.FromBytes(manifest)
	put := s.putManifest("a/image", "v1", manifest).want(t, http.StatusCreated)
	if got := put.Header.Get("Docker-Content-Digest"); got != d.String() {
		t.Errorf("push answers digest %s, want %s", got, d)
	}
	for _, path := range []string{put.Header.Get("Location"), "/v2/a/image/manifests/v1", "/v2/a/image/manifests/" + d.String(), "/v2/a/image/manifests/" + strings.Replace(d.String(), ":", "%3A", 1)} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := s.do(method, path, nil).want(t, http.StatusOK)
			if method == http.MethodGet && !bytes.Equal(a.body, manifest) {
				t.Errorf("%s: other bytes", path)
			}
			for key, want := range map[string]string{
				"Content-Type":          imagespec.MediaTypeImageManifest,
				"Content-Length":        fmt.Sprint(len(manifest)),
				"Docker-Content-Digest": d.String(),
				"Etag":                  `"` + d.String() + `"`,
			} {
				if got := a.Header.Get(key); got != want {
					t.Errorf("%s %s: %s is %q, want %q", method, path, key, got, want)
				}
			}
		}
	}
	s.do(http.MethodGet, "/v2/a/image/manifests/v1", nil, "If-None-Match", `"`+d.String()+`"`).want(t, http.StatusNotModified)
	s.do(http.MethodGet, "/v2/a/image/manifests/v1", nil, "If-None-Match", `"sha256:0"`).want(t, http.StatusOK)
}

func TestDockerManifestIsNotConverted(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/docker", func(m *imagespec.Manifest) {
		m.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
		m.Config.MediaType = "application/vnd.docker.container.image.v1+json"
	})
	manifest = append([]byte(" \n"), manifest...) // the bytes that were sent, not the JSON that they mean
	s.do(http.MethodPut, "/v2/a/docker/manifests/v1", manifest, "Content-Type", "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8").want(t, http.StatusCreated)
	a := s.do(http.MethodGet, "/v2/a/docker/manifests/v1", nil, "Accept", imagespec.MediaTypeImageManifest).want(t, http.StatusOK)
	if !bytes.Equal(a.body, manifest) || a.Header.Get("Content-Type") != "application/vnd.docker.distribution.manifest.v2+json" {
		t.Errorf("got %q of type %s", a.body, a.Header.Get("Content-Type"))
	}
}
