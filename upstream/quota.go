package upstream

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// pullQuota is how many more manifests the upstream gives, as Docker Hub tells in
// ratelimit-limit and ratelimit-remaining ("100;w=21600": 100 in 21,600 seconds).
type pullQuota struct {
	mu               sync.Mutex
	limit, remaining int64
	until            time.Time // what was said then is too old to mean anything
}

func (q *pullQuota) observe(header http.Header, tell func(remaining float64)) {
	remaining, window, ok := parseQuota(header.Get("Ratelimit-Remaining"))
	if !ok {
		return
	}
	limit, _, _ := parseQuota(header.Get("Ratelimit-Limit"))
	q.mu.Lock()
	q.limit, q.remaining, q.until = limit, remaining, time.Now().Add(window)
	q.mu.Unlock()
	tell(float64(remaining))
}

func (q *pullQuota) low() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Now().Before(q.until) && (q.remaining <= 2 || q.remaining*20 <= q.limit)
}

func parseQuota(value string) (n int64, window time.Duration, ok bool) {
	number, parameter, _ := strings.Cut(value, ";")
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	window = time.Hour
	if seconds, found := strings.CutPrefix(strings.TrimSpace(parameter), "w="); found {
		if s, err := strconv.ParseUint(seconds, 10, 31); err == nil {
			window = time.Duration(s) * time.Second
		}
	}
	return n, window, err == nil && n >= 0
}
