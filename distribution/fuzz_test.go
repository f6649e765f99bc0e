package distribution

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"/v2", "/v2/", "/v2/_catalog", "/v2/a/b/tags/list", "/v2/a/manifests/latest", "/v2/a/manifests/sha256%3Aabc",
		"/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/id", "/v2/a/blobs/sha256:x", "/v2/a/referrers/x", "/v2/blobs/uploads/blobs/uploads/",
		"/v2/tags/list/tags/list", "/v2/../x/manifests/y", "/v2/a%2f..%2fb/manifests/x", "/v2//", "/v20/blobs/0", "/v2/a/b/manifests/%zz", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := ParsePath(path)
		if err != nil {
			return
		}
		if got.endpoint == endpointPing || got.endpoint == endpointCatalog {
			return
		}
		// What is accepted cannot leave its place, and means what it was read from.
		if storage.CheckName(got.Repository) != nil || strings.Contains(got.Repository, "..") {
			t.Errorf("%q: repository %q", path, got.Repository)
		}
		if !strings.HasPrefix(path, "/v2/"+got.Repository+"/") {
			t.Errorf("%q is not of repository %q", path, got.Repository)
		}
		if reference, _ := url.PathUnescape(path); !strings.HasSuffix(reference, got.reference) {
			t.Errorf("%q does not end in %q", path, got.reference)
		}
	})
}

func FuzzParseContentRange(f *testing.F) {
	for _, seed := range []string{"0-0", "0-99", "100-199", "1-0", "-1", "a-b", "0-9223372036854775807", "99999999999999999999-1", "bytes 0-1/2", "+1-2", "0-1 "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		first, last, err := parseContentRange(value)
		if err == nil && (first < 0 || last < first || last-first+1 < 1) {
			t.Errorf("%q: %d to %d", value, first, last)
		}
	})
}

// FuzzRange compares the ranges that are answered here with net/http's own answer.
func FuzzRange(f *testing.F) {
	for _, seed := range []string{"bytes=0-", "bytes=5-", "bytes=9-", "bytes=10-", "bytes=-3", "bytes=2-4", "bytes=0-1,3-4", "bytes=-", "bytes=x-", "items=0-", "bytes= 3-", "bytes=03-", "bytes=+3-", "bytes=99999999999999999999-"} {
		f.Add(seed)
	}
	content := []byte("0123456789")
	f.Fuzz(func(t *testing.T, header string) {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.Header["Range"] = []string{header}
		want := httptest.NewRecorder()
		http.ServeContent(want, req, "", time.Time{}, bytes.NewReader(content))
		got := httptest.NewRecorder()
		if err := serveContent(got, req, bytes.NewReader(content), int64(len(content))); err != nil {
			got.Code = find(err).status
		}
		if got.Code != want.Code {
			t.Fatalf("%q: status %d, want %d", header, got.Code, want.Code)
		}
		if want.Code != http.StatusPartialContent || strings.HasPrefix(want.Header().Get("Content-Type"), "multipart/") {
			return
		}
		body, _ := io.ReadAll(got.Body)
		if !bytes.Equal(body, want.Body.Bytes()) || got.Header().Get("Content-Range") != want.Header().Get("Content-Range") {
			t.Errorf("%q: %q of %q, want %q of %q", header, body, got.Header().Get("Content-Range"), want.Body, want.Header().Get("Content-Range"))
		}
	})
}
