package upstreamtest

import (
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Request is what the upstream was asked, and what it answered so far.
type Request struct {
	Time   time.Time
	Method string
	Path   string
	Query  string
	Header http.Header
	CDN    bool  // it went to the listener that blobs are redirected to
	Status int   // 0: no answer yet, or never
	Sent   int64 // bytes of the body that were written to the connection
	Done   bool  // nothing more will be sent
}

// Range returns the Range header.
func (r Request) Range() string { return r.Header.Get("Range") }

// Authorization returns the scheme of the credentials, such as Bearer, or nothing if
// there were none.
func (r Request) Authorization() string {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return scheme
}

// String returns the request's first line with its range, for messages of tests.
func (r Request) String() string {
	s := r.Method + " " + r.Path
	if r.Query != "" {
		s += "?" + r.Query
	}
	if r.Range() != "" {
		s += " " + r.Range()
	}
	return s
}

// Requests are requests in the order in which they came.
type Requests []Request

// Filter returns the requests that keep is true for.
func (r Requests) Filter(keep func(Request) bool) Requests {
	var kept Requests
	for _, request := range r {
		if keep(request) {
			kept = append(kept, request)
		}
	}
	return kept
}

// Method returns the requests with a method.
func (r Requests) Method(method string) Requests {
	return r.Filter(func(request Request) bool { return request.Method == method })
}

// Path returns the requests whose path a regular expression matches anywhere.
func (r Requests) Path(pattern string) Requests {
	matcher := regexp.MustCompile(pattern)
	return r.Filter(func(request Request) bool { return matcher.MatchString(request.Path) })
}

// Manifests returns the requests for manifests.
func (r Requests) Manifests() Requests { return r.Path("^/v2/.+/manifests/") }

// Blobs returns the requests for blobs, those to the CDN among them.
func (r Requests) Blobs() Requests { return r.Path("^(/v2/.+/blobs/|" + cdnPath + ")") }

// CDN returns the requests to the listener that blobs are redirected to.
func (r Requests) CDN() Requests {
	return r.Filter(func(request Request) bool { return request.CDN })
}

// Active returns the requests that are still being answered.
func (r Requests) Active() Requests {
	return r.Filter(func(request Request) bool { return !request.Done })
}

// Mentioning returns the requests that have text in their path, query or header, as no
// request should have a private name.
func (r Requests) Mentioning(text string) Requests {
	return r.Filter(func(request Request) bool {
		if strings.Contains(request.Path, text) || strings.Contains(request.Query, text) {
			return true
		}
		for _, values := range request.Header {
			if strings.Contains(strings.Join(values, "\n"), text) {
				return true
			}
		}
		return false
	})
}

// Sent returns how many bytes of bodies were sent.
func (r Requests) Sent() int64 {
	var total int64
	for _, request := range r {
		total += request.Sent
	}
	return total
}

// Ranges returns the Range headers, empty ones too.
func (r Requests) Ranges() []string {
	var ranges []string
	for _, request := range r {
		ranges = append(ranges, request.Range())
	}
	return ranges
}

// Requests returns what was asked since the start or the last Reset. A fault, a redirect
// or a challenge is a request as any other.
func (r *Registry) Requests() Requests { return r.requests.all() }

// BytesSent returns how many bytes of bodies were sent since the start or the last Reset.
func (r *Registry) BytesSent() int64 { return r.Requests().Sent() }

// Reset forgets what was asked. What is being answered then is not told any more.
func (r *Registry) Reset() { r.requests.reset() }

// log is what was asked.
type log struct {
	mu      sync.Mutex
	entries []*Request
}

func (l *log) begin(req *http.Request, cdn bool) *Request {
	entry := &Request{
		Time:   time.Now(),
		Method: req.Method,
		Path:   req.URL.Path,
		Query:  req.URL.RawQuery,
		Header: req.Header.Clone(),
		CDN:    cdn,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return entry
}

func (l *log) answered(entry *Request, status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry.Status = status
}

func (l *log) sent(entry *Request, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry.Sent += int64(n)
}

func (l *log) end(entry *Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry.Done = true
}

func (l *log) all() Requests {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(Requests, len(l.entries))
	for i, entry := range l.entries {
		all[i] = *entry
	}
	return all
}

func (l *log) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = nil
}
