package upstream

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// reply is what a client got.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

// ask sends a request, whose answer the caller reads.
func (s *site) ask(method, path string, headers ...string) *http.Response {
	s.t.Helper()
	resp, err := s.send(method, path, headers...)
	if err != nil {
		s.t.Errorf("%s %s: %v", method, path, err)
		return &http.Response{Body: http.NoBody, Header: http.Header{}}
	}
	return resp
}

func (s *site) send(method, path string, headers ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+"/v2/"+path, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return s.server.Client().Do(req)
}

func (s *site) get(path string, headers ...string) reply {
	resp, err := s.send(http.MethodGet, path, headers...)
	if err != nil {
		return reply{err: err} // cut before the header
	}
	return readAll(resp)
}

func readAll(resp *http.Response) reply {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, body, err}
}

// want checks that a client got content and believes that it is all.
func (r reply) want(t *testing.T, status int, content []byte) {
	t.Helper()
	if r.status != status || r.err != nil || !bytes.Equal(r.body, content) {
		t.Errorf("got %d, %d bytes, %v; want %d, %d bytes", r.status, len(r.body), r.err, status, len(content))
	}
}

// wantCut checks that a client cannot take what it got for the whole.
func (r reply) wantCut(t *testing.T) {
	t.Helper()
	if r.err == nil && r.status < 400 {
		t.Errorf("got %d and %d bytes, whole", r.status, len(r.body))
	}
}

func (r reply) wantStatus(t *testing.T, status int, results ...Result) {
	t.Helper()
	if r.status != status || r.err != nil {
		t.Errorf("got %d, %v, %s; want %d", r.status, r.err, r.body, status)
	}
	if len(results) > 0 && r.header.Get("X-Registry-Cache") != string(results[0]) {
		t.Errorf("X-Registry-Cache %q, want %q", r.header.Get("X-Registry-Cache"), results[0])
	}
}

func blobPath(repository string, b upstreamtest.Blob) string {
	return hub + "/" + repository + "/blobs/" + b.Digest.String()
}

func manifestPath(repository, reference string) string {
	return hub + "/" + repository + "/manifests/" + reference
}

// counts is what a Meter was told.
type counts struct {
	mu         sync.Mutex
	results    map[Result]int
	received   int64
	served     int64
	active     int
	mismatches int
}

func newCounts() *counts { return &counts{results: make(map[Result]int)} }

func (c *counts) meter() Meter {
	locked := func(f func()) {
		c.mu.Lock()
		defer c.mu.Unlock()
		f()
	}
	return Meter{
		Result:    func(r Result) { locked(func() { c.results[r]++ }) },
		Received:  func(n int64) { locked(func() { c.received += n }) },
		Served:    func(n int64) { locked(func() { c.served += n }) },
		Transfers: func(n int) { locked(func() { c.active += n }) },
		Mismatch:  func() { locked(func() { c.mismatches++ }) },
	}
}

func (c *counts) get() counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return counts{results: maps.Clone(c.results), received: c.received, served: c.served, active: c.active, mismatches: c.mismatches}
}

// logged is a log in memory.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}
