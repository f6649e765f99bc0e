package distribution_test

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestBlobRanges(t *testing.T) {
	s := newServer(t, "")
	content := randomBytes(t, 2048)
	path := "/v2/a/b/blobs/" + s.pushBlob("a/b", content).String()
	for _, c := range []struct {
		header     string
		start, end int // of what is answered
	}{
		{"bytes=0-", 0, 2048},
		{"bytes=500-", 500, 2048},
		{"bytes=2047-", 2047, 2048},
		{"bytes=0-0", 0, 1},
		{"bytes=500-1499", 500, 1500},
		{"bytes=2000-5000", 2000, 2048},
		{"bytes=-500", 1548, 2048},
		{"bytes=-5000", 0, 2048},
	} {
		a := s.do(http.MethodGet, path, nil, "Range", c.header).want(t, http.StatusPartialContent)
		if !bytes.Equal(a.body, content[c.start:c.end]) {
			t.Errorf("%s: %d other bytes", c.header, len(a.body))
		}
		if got, want := a.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-%d/2048", c.start, c.end-1); got != want {
			t.Errorf("%s: Content-Range %q, want %q", c.header, got, want)
		}
		head := s.do(http.MethodHead, path, nil, "Range", c.header)
		if got, want := head.ContentLength, int64(c.end-c.start); head.StatusCode == http.StatusPartialContent && got != want {
			t.Errorf("HEAD %s: Content-Length %d, want %d", c.header, got, want)
		}
	}
	for _, header := range []string{"bytes=2048-", "bytes=5000-10000", "bytes=500-0", "bytes=a-b", "bytes=-"} {
		a := s.do(http.MethodGet, path, nil, "Range", header)
		a.wantError(t, http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID")
		if header == "bytes=2048-" && a.Header.Get("Content-Range") != "bytes */2048" {
			t.Errorf("Content-Range %q tells no size", a.Header.Get("Content-Range"))
		}
	}
	etag := s.do(http.MethodHead, path, nil).want(t, http.StatusOK).Header.Get("Etag")
	if a := s.do(http.MethodGet, path, nil, "Range", "bytes=5-", "If-Range", etag).want(t, http.StatusPartialContent); !bytes.Equal(a.body, content[5:]) {
		t.Error("If-Range with the right Etag: other bytes")
	}
	s.do(http.MethodGet, path, nil, "Range", "bytes=5-", "If-Range", `"other"`).want(t, http.StatusOK)
	s.do(http.MethodGet, path, nil, "If-None-Match", etag).want(t, http.StatusNotModified)
}

func TestSeveralRanges(t *testing.T) {
	s := newServer(t, "")
	content := randomBytes(t, 2048)
	path := "/v2/a/b/blobs/" + s.pushBlob("a/b", content).String()
	a := s.do(http.MethodGet, path, nil, "Range", "bytes=0-9,100-199").want(t, http.StatusPartialContent)
	_, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, want := range [][]byte{content[0:10], content[100:200]} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("part %s: %d other bytes, %v", part.Header.Get("Content-Range"), len(got), err)
		}
	}
}

func TestManifestRanges(t *testing.T) {
	s := newServer(t, "")
	manifest := s.image("a/b", nil)
	s.putManifest("a/b", "v1", manifest).want(t, http.StatusCreated)
	for header, want := range map[string][]byte{"bytes=0-": manifest, "bytes=10-19": manifest[10:20], "bytes=-5": manifest[len(manifest)-5:]} {
		a := s.do(http.MethodGet, "/v2/a/b/manifests/v1", nil, "Range", header).want(t, http.StatusPartialContent)
		if !bytes.Equal(a.body, want) {
			t.Errorf("%s: got %q", header, a.body)
		}
	}
	s.do(http.MethodGet, "/v2/a/b/manifests/v1", nil, "Range", "bytes=100000-").wantError(t, http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID")
}

func TestUploadWays(t *testing.T) {
	s := newServer(t, "")
	content := randomBytes(t, 3000)
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := algorithm.FromBytes(content)
		ways := map[string]func(t *testing.T, repository string) answer{
			"single POST": func(t *testing.T, repository string) answer {
				return s.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d.String(), content)
			},
			"POST and PUT": func(t *testing.T, repository string) answer {
				return s.do(http.MethodPut, s.startUpload(repository)+"?digest="+d.String(), content)
			},
			"stream without a length": func(t *testing.T, repository string) answer {
				location := s.startUpload(repository)
				a := s.send(http.MethodPatch, location, struct{ io.Reader }{bytes.NewReader(content)}).want(t, http.StatusAccepted)
				if got := a.Header.Get("Range"); got != "0-2999" {
					t.Errorf("Range %q", got)
				}
				return s.do(http.MethodPut, location+"?digest="+d.String(), nil)
			},
			"chunks, the last by PUT": func(t *testing.T, repository string) answer {
				location := s.startUpload(repository)
				s.do(http.MethodPatch, location, content[:1000], "Content-Range", "0-999").want(t, http.StatusAccepted)
				s.do(http.MethodPatch, location, content[1000:2000], "Content-Range", "1000-1999").want(t, http.StatusAccepted)
				return s.do(http.MethodPut, location+"?digest="+d.String(), content[2000:], "Content-Range", "2000-2999")
			},
			"algorithm named ahead": func(t *testing.T, repository string) answer {
				location := s.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest-algorithm="+algorithm.String(), nil).want(t, http.StatusAccepted).Header.Get("Location")
				return s.do(http.MethodPut, location+"?digest="+d.String(), content)
			},
		}
		for name, push := range ways {
			t.Run(algorithm.String()+" "+name, func(t *testing.T) {
				repository := strings.ReplaceAll("ways/"+algorithm.String()+"/"+strings.ToLower(strings.ReplaceAll(name, ",", "")), " ", "-")
				a := push(t, repository).want(t, http.StatusCreated)
				if got, want := a.Header.Get("Location"), "/v2/"+repository+"/blobs/"+d.String(); got != want {
					t.Errorf("Location %q, want %q", got, want)
				}
				got := s.do(http.MethodGet, a.Header.Get("Location"), nil).want(t, http.StatusOK)
				if !bytes.Equal(got.body, content) {
					t.Error("other bytes")
				}
			})
		}
	}
}

func TestChunkOutOfOrderTellsWhereToGoOn(t *testing.T) {
	s := newServer(t, "")
	location := s.startUpload("a/b")
	s.do(http.MethodPatch, location, make([]byte, 100), "Content-Range", "0-99").want(t, http.StatusAccepted)
	for _, c := range []struct{ method, path, contentRange string }{
		{http.MethodPatch, location, "200-299"},
		{http.MethodPatch, location, "0-99"},
		{http.MethodPut, location + "?digest=" + digest.FromString("x").String(), "200-299"},
	} {
		a := s.do(c.method, c.path, make([]byte, 100), "Content-Range", c.contentRange)
		a.wantError(t, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
		if a.Header.Get("Range") != "0-99" || a.Header.Get("Location") != location {
			t.Errorf("%s %s: Range %q, Location %q", c.method, c.contentRange, a.Header.Get("Range"), a.Header.Get("Location"))
		}
	}
	a := s.do(http.MethodGet, location, nil).want(t, http.StatusNoContent)
	if a.Header.Get("Range") != "0-99" {
		t.Errorf("Range %q", a.Header.Get("Range"))
	}
}

func TestCancelledUploadIsGone(t *testing.T) {
	s := newServer(t, "")
	location := s.startUpload("a/b")
	s.do(http.MethodPatch, location, make([]byte, 100)).want(t, http.StatusAccepted)
	s.do(http.MethodDelete, location, nil).want(t, http.StatusNoContent)
	for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
		s.do(method, location, nil).wantError(t, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
	}
	s.wantNoUploads()
}

// wantNoUploads checks that no upload takes room.
func (s *server) wantNoUploads() {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "uploads"))
	if err != nil {
		s.t.Fatal(err)
	}
	if len(entries) > 0 {
		s.t.Errorf("%d uploads are left behind", len(entries))
	}
}

func TestDroppedUploadGoesOn(t *testing.T) {
	s := newServer(t, "")
	content := randomBytes(t, 100_000)
	location := s.startUpload("a/b")
	// The client sends a half and is gone, or seems to be.
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, s.URL+location, reader)
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan struct{})
	go func() {
		defer close(first)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
	}()
	if _, err := writer.Write(content[:50_000]); err != nil {
		t.Fatal(err)
	}
	// It comes back on another connection while the server still waits on the first.
	// What it had sent until then may have arrived, or got lost with that one.
	var size int
	for dropped := false; size == 0 && !dropped; {
		select {
		case <-first:
			dropped = true
		default:
		}
		a := s.do(http.MethodGet, location, nil).want(t, http.StatusNoContent)
		var last int
		if _, err := fmt.Sscanf(a.Header.Get("Range"), "0-%d", &last); err != nil {
			t.Fatal(err)
		}
		if last > 0 {
			size = last + 1
		}
	}
	writer.CloseWithError(io.ErrUnexpectedEOF)
	<-first
	d := digest.FromBytes(content)
	s.do(http.MethodPatch, location, content[size:], "Content-Range", fmt.Sprintf("%d-%d", size, len(content)-1)).want(t, http.StatusAccepted)
	s.do(http.MethodPut, location+"?digest="+d.String(), nil).want(t, http.StatusCreated)
	if got := s.do(http.MethodGet, "/v2/a/b/blobs/"+d.String(), nil); !bytes.Equal(got.body, content) {
		t.Error("other bytes")
	}
}

func TestMount(t *testing.T) {
	s := newServer(t, "")
	d := s.pushBlob("a/source", []byte("shared"))
	s.do(http.MethodPost, "/v2/b/with-from/blobs/uploads/?from=a/source&mount="+d.String(), nil).want(t, http.StatusCreated)
	s.do(http.MethodPost, "/v2/b/without/blobs/uploads/?mount="+d.String(), nil).want(t, http.StatusCreated)
	for _, repository := range []string{"b/with-from", "b/without"} {
		s.do(http.MethodHead, "/v2/"+repository+"/blobs/"+d.String(), nil).want(t, http.StatusOK)
	}
	// What cannot be mounted is to be uploaded.
	for _, query := range []string{"from=a/other&mount=" + d.String(), "from=a/source&mount=" + digest.FromString("absent").String()} {
		a := s.do(http.MethodPost, "/v2/b/upload/blobs/uploads/?"+query, nil).want(t, http.StatusAccepted)
		s.do(http.MethodGet, a.Header.Get("Location"), nil).want(t, http.StatusNoContent)
	}
	s.do(http.MethodHead, "/v2/b/upload/blobs/"+d.String(), nil).want(t, http.StatusNotFound)
}

func TestSameBytesElsewhereAreNoWayIn(t *testing.T) {
	s := newServer(t, "")
	d := s.pushBlob("a/secret", []byte("secret"))
	s.do(http.MethodGet, "/v2/a/other/blobs/"+d.String(), nil).wantError(t, http.StatusNotFound, "BLOB_UNKNOWN")
	manifest := s.image("a/secret", nil)
	s.putManifest("a/secret", "v1", manifest).want(t, http.StatusCreated)
	s.do(http.MethodGet, "/v2/a/other/manifests/"+digest.FromBytes(manifest).String(), nil).want(t, http.StatusNotFound)
	s.putManifest("a/other", "v1", manifest).wantError(t, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
}

func TestDeletedBlobIsGoneUnlessAnImageNeedsIt(t *testing.T) {
	s := newServer(t, "")
	d := s.pushBlob("a/b", []byte("alone"))
	path := "/v2/a/b/blobs/" + d.String()
	s.do(http.MethodDelete, path, nil).want(t, http.StatusAccepted)
	s.do(http.MethodGet, path, nil).wantError(t, http.StatusNotFound, "BLOB_UNKNOWN")
	s.do(http.MethodDelete, path, nil).wantError(t, http.StatusNotFound, "BLOB_UNKNOWN")

	manifest := s.image("a/b", nil)
	s.putManifest("a/b", "v1", manifest).want(t, http.StatusCreated)
	config := "/v2/a/b/blobs/" + digest.FromString("{}").String()
	s.do(http.MethodDelete, config, nil).wantError(t, http.StatusMethodNotAllowed, "UNSUPPORTED")
	s.do(http.MethodDelete, "/v2/a/b/manifests/"+digest.FromBytes(manifest).String(), nil).want(t, http.StatusAccepted)
	s.do(http.MethodDelete, config, nil).want(t, http.StatusAccepted)
}
