package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/eblume/caddy-registry/storage"
)

const (
	maxFailures = 3                // in a row, before an endpoint is left alone
	openFor     = 10 * time.Second // it is left alone for
)

// endpoint is one base URL of an upstream. It is not asked while it is known not to
// answer, so that an outage costs those who ask next to nothing.
type endpoint struct {
	upstream string // its name
	base     *url.URL
	index    int // among the upstream's endpoints
	client   *auth.Client
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	open     atomic.Bool // since it failed, and until it has answered again
	quota    *pullQuota
	metrics  ClientMetrics
	log      *slog.Logger
	stall    time.Duration

	mu          sync.Mutex
	pausedUntil time.Time // after a 429
	lastOutage  string
}

// newBreaker returns a circuit breaker that reports when the endpoint goes and comes back.
func (e *endpoint) newBreaker(changed func()) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:      openFor,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= maxFailures },
		IsSuccessful: func(err error) bool { return !isOutage(err) },
		// A caller that gave up says nothing of the endpoint.
		IsExcluded: func(err error) bool { return err != nil && kindOf(err) == nil },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			down := to != gobreaker.StateClosed // half-open, it is still to answer
			if e.open.Swap(down) == down {
				return
			}
			if down {
				e.log.Warn("upstream does not answer", "url", e.base.String(), "failures", maxFailures, "error", e.whyDown())
			} else {
				e.log.Info("upstream answers again", "url", e.base.String())
			}
			changed()
		},
	})
}

// note remembers why the endpoint is about to be left alone.
func (e *endpoint) note(err error) {
	var f *failure
	if isOutage(err) && errors.As(err, &f) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.lastOutage = f.message
	}
}

func (e *endpoint) whyDown() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastOutage
}

// refusal returns the error of a request that would not be sent now, or nil.
func (e *endpoint) refusal() error {
	if err := e.paused(); err != nil {
		return err
	}
	switch e.breaker.State() {
	case gobreaker.StateOpen:
		return e.leftAlone()
	case gobreaker.StateHalfOpen:
		if counts := e.breaker.Counts(); counts.Requests > counts.TotalExclusions {
			return e.leftAlone()
		}
	}
	return nil
}

func (e *endpoint) paused() error {
	if left := e.pauseLeft(); left > 0 {
		return e.rateLimited(left, e.base.Host+" answered 429 Too Many Requests before")
	}
	return nil
}

func (e *endpoint) leftAlone() error {
	return e.fail(ErrUnavailable, "%s failed %d times in a row and is asked again every %v; the last time: %s", e.base.Host, maxFailures, openFor, e.whyDown())
}

func (e *endpoint) pause(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if until := time.Now().Add(d); until.After(e.pausedUntil) {
		e.pausedUntil = until
	}
}

func (e *endpoint) pauseLeft() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return max(0, time.Until(e.pausedUntil))
}

// url returns the URL of an endpoint of the distribution API.
func (e *endpoint) url(name, path string, query url.Values) *url.URL {
	u := *e.base
	u.Path += "/v2/" + name + "/" + path
	u.RawQuery = query.Encode()
	return &u
}

// ask sends a request for content of a repository, and has read take the answer,
// whatever its status. The body is closed when read returns, unless it has put
// [http.NoBody] in its place.
func (e *endpoint) ask(ctx context.Context, method, name string, u *url.URL, header http.Header, read func(*http.Response) error) (err error) {
	if err := storage.CheckName(name); err != nil {
		return err
	}
	if err := e.paused(); err != nil {
		return err
	}
	done, refused := e.breaker.Allow()
	if refused != nil {
		return e.leftAlone()
	}
	defer func() {
		e.note(err)
		done(err)
	}()

	scoped := auth.WithScopes(ctx, auth.ScopeRepository(name, auth.ActionPull))
	req, err := http.NewRequestWithContext(scoped, method, u.String(), nil)
	if err != nil {
		return e.fail(ErrInvalid, "%v", err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := e.client.Do(req)
	if err != nil {
		return e.explain(ctx, err)
	}
	defer func() {
		// A connection is used again only if its answer was read to the end.
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		resp.Body.Close()
	}()
	return read(resp)
}
