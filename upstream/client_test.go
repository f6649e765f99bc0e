package upstream

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

const testImage = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`

var testDigest = digest.FromString(testImage)

func byTag(tag string) storage.Reference         { return storage.Reference{Tag: tag} }
func byDigest(d digest.Digest) storage.Reference { return storage.Reference{Digest: d} }
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}
func gzipped(content string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, content)
	w.Close()
	return b.String()
}

// answerWith answers every request with content and the given headers.
func answerWith(content string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		io.WriteString(w, content)
	}
}

func answerImage(headers ...string) http.HandlerFunc {
	return answerWith(testImage, append([]string{"Content-Type", imagespec.MediaTypeImageManifest}, headers...)...)
}

// serve returns the URL of a server, and a count of what it is asked.
func serve(t *testing.T, h http.HandlerFunc) (string, *requestLog) {
	t.Helper()
	log := new(requestLog)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.add(r)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, log
}

// requestLog is what a server was asked.
type requestLog struct {
	mu   sync.Mutex
	seen []*http.Request
}

func (l *requestLog) add(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, r)
}

func (l *requestLog) all() []*http.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.seen)
}

func (l *requestLog) count() int { return len(l.all()) }

// closedURL is one that nothing listens on.
func closedURL(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(status(http.StatusOK))
	s.Close()
	return s.URL
}

func clientOf(t *testing.T, config Config, urls ...string) *Client {
	t.Helper()
	if config.Name == "" {
		config.Name = "up.test"
	}
	config.URLs = append(config.URLs, urls...)
	c, err := NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// wantKind fails the test unless err wraps kind and no other of the sentinels, and names
// the upstream.
func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	for _, k := range kinds {
		if got, want := errors.Is(err, k), k == kind; got != want {
			t.Errorf("errors.Is(%v, %v) = %v", err, k, got)
		}
	}
	if err != nil && !strings.Contains(err.Error(), "up.test: ") {
		t.Errorf("%q does not name the upstream", err)
	}
}

func TestHeadTellsWhatTheUpstreamTells(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		ref     storage.Reference
		want    imagespec.Descriptor
		err     error
	}{
		"all": {
			answerImage("Docker-Content-Digest", testDigest.String()), byTag("v1"),
			imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: testDigest, Size: int64(len(testImage))}, nil,
		},
		"no digest":    {answerImage(), byTag("v1"), imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Size: int64(len(testImage))}, nil},
		"by digest":    {answerImage(), byDigest(testDigest), imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: testDigest, Size: int64(len(testImage))}, nil},
		"file server":  {answerWith("x", "Content-Type", "text/plain; charset=utf-8"), byTag("v1"), imagespec.Descriptor{Size: 1}, nil},
		"no HEAD":      {status(http.StatusMethodNotAllowed), byTag("v1"), imagespec.Descriptor{Size: -1}, nil},
		"login page":   {answerWith("x", "Content-Type", "text/html"), byTag("v1"), imagespec.Descriptor{}, ErrInvalid},
		"wrong digest": {answerImage("Docker-Content-Digest", "sha256:0"), byTag("v1"), imagespec.Descriptor{}, ErrInvalid},
		"schema 1":     {answerWith("x", "Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws"), byTag("v1"), imagespec.Descriptor{}, ErrInvalid},
		"absent":       {status(http.StatusNotFound), byTag("v1"), imagespec.Descriptor{}, ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			url, log := serve(t, test.handler)
			got, err := clientOf(t, Config{}, url+"/").Head(t.Context(), "a/b", test.ref)
			wantKind(t, err, test.err)
			if err == nil && (got.MediaType != test.want.MediaType || got.Digest != test.want.Digest || got.Size != test.want.Size) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
			r := log.all()[0]
			if r.Method != http.MethodHead || r.URL.Path != "/v2/a/b/manifests/"+test.ref.String() {
				t.Errorf("asked %s %s", r.Method, r.URL)
			}
		})
	}
}

func TestManifestIsVerified(t *testing.T) {
	sha512 := digest.SHA512.FromString(testImage)
	other := digest.FromString("other")
	large := strings.Replace(testImage, `"layers":[]`, `"layers":[],"annotations":{"a":"`+strings.Repeat("x", storage.MaxManifestSize)+`"}`, 1)
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		ref     storage.Reference
		want    digest.Digest
		err     error
		says    string
	}{
		"by tag":                     {answerImage("Docker-Content-Digest", testDigest.String()), byTag("v1"), testDigest, nil, ""},
		"by tag, no digest told":     {answerImage(), byTag("v1"), testDigest, nil, ""},
		"by tag, sha512 told":        {answerImage("Docker-Content-Digest", sha512.String()), byTag("v1"), sha512, nil, ""},
		"by digest":                  {answerImage(), byDigest(testDigest), testDigest, nil, ""},
		"by sha512":                  {answerImage("Docker-Content-Digest", testDigest.String()), byDigest(sha512), sha512, nil, ""},
		"file server":                {answerWith(testImage, "Content-Type", "application/octet-stream"), byTag("v1"), testDigest, nil, ""},
		"compressed":                 {answerImage("Content-Encoding", "gzip"), byTag("v1"), "", ErrInvalid, "gzip"},
		"compressed as said":         {answerWith(gzipped(testImage), "Content-Encoding", "gzip", "Content-Type", imagespec.MediaTypeImageManifest), byDigest(testDigest), testDigest, nil, ""},
		"bomb":                       {answerWith(gzipped(large), "Content-Encoding", "gzip", "Content-Type", imagespec.MediaTypeImageManifest), byTag("v1"), "", ErrInvalid, "more than"},
		"other encoding":             {answerImage("Content-Encoding", "br"), byTag("v1"), "", ErrInvalid, `"br"`},
		"other bytes than asked for": {answerImage(), byDigest(other), "", ErrInvalid, other.String()},
		"other bytes than told":      {answerImage("Docker-Content-Digest", other.String()), byTag("v1"), "", ErrInvalid, other.String()},
		"told nonsense":              {answerImage("Docker-Content-Digest", "sha256:x"), byTag("v1"), "", ErrInvalid, "Docker-Content-Digest"},
		"too large":                  {answerWith(large, "Content-Type", imagespec.MediaTypeImageManifest), byTag("v1"), "", ErrInvalid, "more than"},
		"schema 1 by its type":       {answerWith("{}", "Content-Type", "application/vnd.docker.distribution.manifest.v1+json"), byTag("v1"), "", ErrInvalid, "schema 1"},
		"schema 1 by its content":    {answerWith(`{"schemaVersion":1,"fsLayers":[]}`, "Content-Type", "application/json"), byTag("v1"), "", ErrInvalid, "schema 1"},
		"login page":                 {answerWith("<html>", "Content-Type", "text/html"), byTag("v1"), "", ErrInvalid, "text/html"},
		"no manifest":                {answerWith("<html>", "Content-Type", imagespec.MediaTypeImageManifest), byTag("v1"), "", ErrInvalid, "JSON"},
		"type unlike the document's": {answerWith(testImage, "Content-Type", imagespec.MediaTypeImageIndex), byTag("v1"), "", ErrInvalid, "mediaType"},
		"nothing":                    {status(http.StatusNoContent), byTag("v1"), "", ErrInvalid, "204"},
		"redirect to nowhere":        {status(http.StatusTemporaryRedirect), byTag("v1"), "", ErrInvalid, "307"},
		"absent":                     {status(http.StatusNotFound), byTag("v1"), "", ErrNotFound, "404"},
		"denied as Docker Hub does":  {status(http.StatusUnauthorized), byTag("v1"), "", ErrDenied, "does not exist"},
		"denied":                     {status(http.StatusForbidden), byTag("v1"), "", ErrDenied, "403"},
		"down":                       {status(http.StatusBadGateway), byTag("v1"), "", ErrUnavailable, "502"},
		"limited":                    {status(http.StatusTooManyRequests), byTag("v1"), "", ErrRateLimited, "429"},
	} {
		t.Run(name, func(t *testing.T) {
			url, log := serve(t, test.handler)
			got, err := clientOf(t, Config{}, url).Manifest(t.Context(), "a", test.ref)
			wantKind(t, err, test.err)
			if err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%q does not say %q", err, test.says)
			}
			if err == nil && (got.Digest != test.want || string(got.Content) != testImage || got.MediaType != imagespec.MediaTypeImageManifest) {
				t.Errorf("got %s %s, want %s", got.Digest, got.Content, test.want)
			}
			header := log.all()[0].Header
			if accept := header.Get("Accept"); strings.Contains(accept, "v1+prettyjws") || strings.Count(accept, ",") != 3 {
				t.Errorf("Accept: %s", accept)
			}
			if header.Get("Accept-Encoding") != "identity" || header.Get("User-Agent") != "caddy-registry" {
				t.Errorf("headers %v", header)
			}
		})
	}
}

func TestTheNextURLIsTried(t *testing.T) {
	truncated := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, testImage)
	}
	for name, test := range map[string]struct {
		handlers []http.HandlerFunc
		err      error
	}{
		"absent":                {[]http.HandlerFunc{status(404), answerImage()}, nil},
		"denied":                {[]http.HandlerFunc{status(401), answerImage()}, nil},
		"down":                  {[]http.HandlerFunc{status(503), answerImage()}, nil},
		"limited":               {[]http.HandlerFunc{status(429), answerImage()}, nil},
		"wrong":                 {[]http.HandlerFunc{answerWith("x", "Content-Type", imagespec.MediaTypeImageManifest), answerImage()}, nil},
		"truncated":             {[]http.HandlerFunc{truncated, answerImage()}, nil},
		"truncated, no other":   {[]http.HandlerFunc{truncated}, ErrUnavailable},
		"absent, then down":     {[]http.HandlerFunc{status(404), status(503)}, ErrUnavailable},
		"down, then absent":     {[]http.HandlerFunc{status(503), status(404)}, ErrUnavailable},
		"limited, then absent":  {[]http.HandlerFunc{status(429), status(404)}, ErrRateLimited},
		"absent, then denied":   {[]http.HandlerFunc{status(404), status(403)}, ErrDenied},
		"denied, then absent":   {[]http.HandlerFunc{status(403), status(404)}, ErrDenied},
		"denied, then down":     {[]http.HandlerFunc{status(403), status(500)}, ErrUnavailable},
		"down, then limited":    {[]http.HandlerFunc{status(500), status(429)}, ErrRateLimited},
		"absent, then wrong":    {[]http.HandlerFunc{status(404), answerImage("Docker-Content-Digest", "x")}, ErrInvalid},
		"absent everywhere":     {[]http.HandlerFunc{status(404), status(404)}, ErrNotFound},
		"nothing listens there": {nil, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			urls := []string{closedURL(t)}
			if test.handlers != nil {
				urls = nil
			}
			for _, h := range test.handlers {
				url, _ := serve(t, h)
				urls = append(urls, url)
			}
			m, err := clientOf(t, Config{}, urls...).Manifest(t.Context(), "a", byTag("v1"))
			wantKind(t, err, test.err)
			if err == nil && m.Digest != testDigest {
				t.Errorf("got %s", m.Digest)
			}
			var limited *RateLimitError
			if test.err == ErrRateLimited && (!errors.As(err, &limited) || limited.RetryAfter <= 0) {
				t.Errorf("%v does not say when to ask again", err)
			}
			if len(test.handlers) == 2 && err != nil && strings.Count(err.Error(), "127.0.0.1") != 2 {
				t.Errorf("%q does not tell of both URLs", err)
			}
		})
	}
}

func TestACanceledRequestAsksNoOtherURL(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	first, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	second, log := serve(t, answerImage())
	_, err := clientOf(t, Config{}, first, second).Manifest(ctx, "a", byTag("v1"))
	if !errors.Is(err, context.Canceled) || kindOf(err) != nil || log.count() != 0 {
		t.Errorf("%v after %d requests to the next URL", err, log.count())
	}
}

func TestNamesThatAreNoneAreNotAskedFor(t *testing.T) {
	url, log := serve(t, answerImage())
	c := clientOf(t, Config{}, url)
	for _, name := range []string{"", "../a", "a//b", "A", "a?x", "a/manifests/v1#"} {
		if _, err := c.Manifest(t.Context(), name, byTag("v1")); !errors.Is(err, storage.ErrNameInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if log.count() != 0 {
		t.Errorf("asked %d times", log.count())
	}
}

func TestOptionsAtFaultAreNamed(t *testing.T) {
	dir := t.TempDir()
	for says, config := range map[string]Config{
		"url: at least one":         {},
		"url x.test":                {URLs: []string{"x.test"}},
		"url ftp://x.test":          {URLs: []string{"ftp://x.test"}},
		"url http://x.test?a":       {URLs: []string{"http://x.test?a"}},
		"url http://u:xxxxx@x.test": {URLs: []string{"http://u:secret@x.test"}},
		"url: it is not a URL":      {URLs: []string{"http://u:secret@x.test:port"}},
		"credentials: a user":       {URLs: []string{"http://x.test"}, Username: "u"},
		"credentials and docker":    {URLs: []string{"http://x.test"}, Username: "u", Password: "p", DockerConfig: dir},
		"docker_config: stat":       {URLs: []string{"http://x.test"}, DockerConfig: dir + "/config.json"},
		"docker_config: failed":     {URLs: []string{"http://x.test"}, DockerConfig: dir},
		"ca_file: open":             {URLs: []string{"http://x.test"}, CAFile: dir + "/ca.pem"},
	} {
		_, err := NewClient(config)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%+v: %v, want %q", config, err, says)
		}
	}
}
