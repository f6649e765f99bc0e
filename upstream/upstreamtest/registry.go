// Package upstreamtest is a registry in the process of a test, to be somebody's
// upstream. It serves content from memory, writes down what it is asked, and on demand
// does what real ones do on bad days: it is slow, it refuses, it lies, it is gone.
//
//	upstream := upstreamtest.Start(t)
//	image := upstream.AddImage("library/alpine", "latest", upstreamtest.Bytes(1, 1<<20))
//	upstream.Fault(upstreamtest.Match{Method: "GET", Path: "/blobs/", First: 1}, upstreamtest.CutHalf())
//	… pull image through what is tested from upstream.URL() …
//	if sent := upstream.Requests().Blobs().Sent(); sent > image.Size() { … }
package upstreamtest

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Registry is an upstream registry. As an [http.Handler] it can be served by anybody;
// [Start], [StartTLS] and [Listen] return one that has a listener of its own. All its
// methods may be called while it serves.
type Registry struct {
	requests log

	mu           sync.Mutex
	repositories map[string]*contents
	settings     settings
	rules        []*rule

	front *server
	cdn   *server // nil without RedirectBlobs
}

// settings are what a request meets, as they are when it comes in.
type settings struct {
	latency     time.Duration
	rate        int64 // of a body, in bytes a second; 0 is without limit
	pageSize    int   // of lists; 0 is without limit
	noReferrers bool
	auth        authentication // nil if everybody may pull
	quota       *quota         // nil without limit
	blackHole   chan struct{}  // not nil: nothing is answered until it is closed
}

// New returns an empty registry that nobody serves yet. Up serves it on a free port of
// the loopback interface.
func New() *Registry {
	r := &Registry{repositories: make(map[string]*contents)}
	r.front = &server{address: loopback, handler: r}
	return r
}

// SetLatency has every request wait for so long before its header is sent.
func (r *Registry) SetLatency(latency time.Duration) {
	r.set(func(s *settings) { s.latency = latency })
}

// SetRate sends each body with so many bytes a second, whatever others there are at the
// time: a connection carries one body at a time, so this is the rate of a connection.
// Zero is as fast as it goes.
func (r *Registry) SetRate(bytesPerSecond int64) {
	r.set(func(s *settings) { s.rate = bytesPerSecond })
}

// SetPageSize limits answers to lists of tags and referrers to n entries, with a Link to
// the others. Zero is without limit.
func (r *Registry) SetPageSize(n int) {
	r.set(func(s *settings) { s.pageSize = n })
}

// SetReferrersAPI turns the referrers API on, as it is at first, or off: then referrers
// are in an index under the fallback tag (distribution-spec, "Referrers Tag Schema").
func (r *Registry) SetReferrersAPI(on bool) {
	r.set(func(s *settings) { s.noReferrers = !on })
}

func (r *Registry) set(change func(*settings)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.settings)
}

// ServeHTTP answers as the upstream.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.serve(w, req, false)
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request, cdn bool) {
	r.mu.Lock()
	s := r.settings
	r.mu.Unlock()
	entry := r.requests.begin(req, cdn)
	defer r.requests.end(entry)

	ctx := req.Context()
	if s.blackHole != nil {
		select {
		case <-s.blackHole:
		case <-ctx.Done():
		}
		panic(http.ErrAbortHandler)
	}
	wait(ctx, s.latency)

	a := r.answer(req, s, cdn)
	if !a.challenge {
		for _, fault := range r.faults(req) {
			fault(a)
		}
	}
	for _, waiting := range a.waits {
		waiting(ctx)
	}
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	if a.rate == 0 {
		a.rate = s.rate
	}
	a.write(w, req, func(status int) { r.requests.answered(entry, status) }, func(n int) { r.requests.sent(entry, n) })
}

// answer returns what a registry in good health says.
func (r *Registry) answer(req *http.Request, s settings, cdn bool) *answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cdn {
		return r.answerCDN(req)
	}
	if tokens, ok := s.auth.(*tokens); ok && req.URL.Path == tokenPath {
		return tokens.give(req, r.repositories)
	}
	t, ok := parse(req.URL.Path)
	if !ok {
		return refusal(http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	}
	if s.auth != nil {
		if refused := s.auth.check(req, t.repository, r.repositories); refused != nil {
			return refused
		}
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		return refusal(http.StatusMethodNotAllowed, "UNSUPPORTED", "an upstream is only read")
	}
	if t.kind == "" {
		return found("application/json", []byte("{}"))
	}
	repository := r.repositories[t.repository]
	if repository == nil {
		return refusal(http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
	}
	switch t.kind {
	case "manifests":
		return r.answerManifest(req, s, repository, t.reference)
	case "blobs":
		return r.answerBlob(req, t.repository, repository, digest.Digest(t.reference))
	case "referrers":
		return answerReferrers(req, s, repository, digest.Digest(t.reference))
	default:
		return answerTags(req, s, t.repository, repository)
	}
}

// target is what a path names; kind is empty for the API's root.
type target struct{ repository, kind, reference string }

func parse(path string) (target, bool) {
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok {
		return target{}, false
	}
	if rest == "" || rest == "/" {
		return target{}, true
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 4 || parts[0] != "" {
		return target{}, false
	}
	n := len(parts)
	t := target{strings.Join(parts[1:n-2], "/"), parts[n-2], parts[n-1]}
	switch t.kind {
	case "manifests", "blobs", "referrers":
		return t, true
	case "tags":
		return t, t.reference == "list"
	}
	return target{}, false
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
