package upstreamtest

import (
	"fmt"
	"net/http"
	"time"
)

// quota is a rate limit as Docker Hub's: of GETs of manifests, not of HEADs or blobs.
type quota struct {
	limit, remaining int
	window           time.Duration
	retryAfter       time.Duration
}

// SetRateLimit limits GETs of manifests to those that remain of limit in a window. All
// answers for manifests tell it in ratelimit-limit and ratelimit-remaining; with nothing
// left a GET is 429 with a Retry-After. The window never ends by itself.
func (r *Registry) SetRateLimit(limit, remaining int, window, retryAfter time.Duration) {
	r.set(func(s *settings) { s.quota = &quota{limit, remaining, window, retryAfter} })
}

// ClearRateLimit ends the limit.
func (r *Registry) ClearRateLimit() {
	r.set(func(s *settings) { s.quota = nil })
}

// take counts a request and reports whether it is within the limit.
func (q *quota) take(method string) bool {
	if method != http.MethodGet {
		return true
	}
	if q.remaining == 0 {
		return false
	}
	q.remaining--
	return true
}

func (q *quota) tell(header http.Header) {
	window := int(q.window.Seconds())
	header.Set("Ratelimit-Limit", fmt.Sprintf("%d;w=%d", q.limit, window))
	header.Set("Ratelimit-Remaining", fmt.Sprintf("%d;w=%d", q.remaining, window))
	header.Set("Docker-Ratelimit-Source", "192.0.2.1")
}
