package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// still is a site in a bubble where time passes only while all wait, with an upstream
// whose connections are in memory.
type still struct {
	*site
	upstream *upstreamtest.Registry
	asked    *requestLog
	down     atomic.Bool
	silent   atomic.Bool // it takes requests and does not answer
}

// inBubble runs a test of a site whose time stands still, with an image tagged latest.
func inBubble(t *testing.T, options Options, test func(t *testing.T, s *still, image upstreamtest.Image)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &still{upstream: upstreamtest.New()}
		listener := &memoryListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.asked.add(r)
			if s.silent.Load() {
				<-r.Context().Done()
				return
			}
			s.upstream.ServeHTTP(w, r)
		})}
		go server.Serve(listener)
		t.Cleanup(func() { server.Close() })
		client := clientOf(t, Config{Name: hub, dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if s.down.Load() {
				return nil, errors.New("connection refused")
			}
			return listener.dial(ctx, network, address)
		}}, "http://hub.test")
		s.asked = new(requestLog)
		s.site = newSite(t, setup{client: client, options: options})
		test(t, s, s.upstream.AddImage(first, "latest", []byte("layer")))
	})
}

// get asks for a path, and returns how long that took.
func (s *still) get(path string) (reply, time.Duration) {
	return s.getFor(s.t.Context(), path)
}

func (s *still) getFor(ctx context.Context, path string) (reply, time.Duration) {
	began := time.Now()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/"+path, nil))
	return reply{status: w.Code, header: w.Header(), body: w.Body.Bytes()}, time.Since(began)
}

// want asks for a tag and checks what comes, from where, and after how long.
func (s *still) want(tag string, image upstreamtest.Image, result Result, after time.Duration) {
	s.t.Helper()
	r, took := s.get(manifestPath(first, tag))
	r.wantStatus(s.t, http.StatusOK, result)
	if string(r.body) != string(image.Manifest.Content) || took != after {
		s.t.Errorf("got %d bytes after %v, want %d after %v", len(r.body), took, len(image.Manifest.Content), after)
	}
}

// wantAsked checks what the upstream was asked since the last time.
func (s *still) wantAsked(methods ...string) {
	s.t.Helper()
	synctest.Wait()
	s.asked.mu.Lock()
	defer s.asked.mu.Unlock()
	var got []string
	for _, r := range s.asked.seen {
		got = append(got, r.Method)
	}
	if fmt.Sprint(got) != fmt.Sprint(methods) {
		s.t.Errorf("the upstream was asked %v, want %v", got, methods)
	}
	s.asked.seen = nil
}

// age lets more time pass than a tag is fresh.
func age() { time.Sleep(freshByDefault + time.Second) }

func TestATagIsFreshForAWhile(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.want("latest", image, Miss, 0)
		s.wantAsked("GET")
		time.Sleep(freshByDefault - time.Second)
		s.want("latest", image, Hit, 0)
		r, _ := s.get(manifestPath(first, image.Manifest.Digest.String()))
		r.wantStatus(t, http.StatusOK, Hit)
		s.wantAsked()
		age()
		s.upstream.SetLatency(10 * time.Millisecond)
		var clients sync.WaitGroup
		for range 50 {
			clients.Go(func() { s.want("latest", image, Revalidated, 10*time.Millisecond) })
		}
		clients.Wait()
		s.upstream.SetLatency(0)
		s.wantAsked("HEAD")
		s.want("latest", image, Hit, 0)

		next := s.upstream.AddImage(first, "latest", []byte("next"))
		s.want("latest", image, Hit, 0)
		age()
		s.want("latest", next, Miss, 0)
		s.wantAsked("HEAD", "GET")
		s.upstream.MoveTag(first, "latest", image.Manifest.Digest)
		age()
		s.want("latest", image, Miss, 0)
		s.wantAsked("HEAD") // its manifest is here
		s.want("latest", image, Hit, 0)

		// It is remembered across a restart.
		s.registryRestart()
		s.want("latest", image, Hit, 0)
		s.wantAsked()
		time.Sleep(1000 * time.Hour)
		r, _ = s.get(manifestPath(first, image.Manifest.Digest.String()))
		r.wantStatus(t, http.StatusOK, Hit)
		s.wantAsked()
	})
}

// registryRestart restarts all but the client, of which there is one in a bubble.
func (s *still) registryRestart() {
	s.t.Helper()
	s.close()
	s.open()
}

func TestTagsByGlob(t *testing.T) {
	rules := Freshness{{Tags: glob.Set{"v*"}, Forever: true}, {Tags: glob.Set{"nightly"}, For: time.Hour}, {For: 0}}
	inBubble(t, Options{Fresh: rules}, func(t *testing.T, s *still, image upstreamtest.Image) {
		for _, tag := range []string{"v1.2", "nightly"} {
			s.upstream.MoveTag(first, tag, image.Manifest.Digest)
			s.want(tag, image, Miss, 0)
		}
		s.want("latest", image, Miss, 0)
		s.want("latest", image, Revalidated, 0)
		s.wantAsked("GET", "GET", "GET", "HEAD")
		time.Sleep(time.Hour - time.Second)
		s.want("nightly", image, Hit, 0)
		time.Sleep(time.Minute)
		s.want("nightly", image, Revalidated, 0)
		time.Sleep(10000 * time.Hour)
		s.want("v1.2", image, Hit, 0)
		s.wantAsked("HEAD")
	})
}

func TestUpstreamsWhoseHeadTellsNothing(t *testing.T) {
	for name, fault := range map[string]upstreamtest.Fault{
		"no digest":  upstreamtest.Digest(""),
		"bad digest": upstreamtest.Digest("sha256:abc"),
		"no HEAD":    upstreamtest.Refuse(http.StatusMethodNotAllowed),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
				s.upstream.Fault(upstreamtest.Match{Method: "HEAD"}, fault)
				s.want("latest", image, Miss, 0)
				age()
				s.want("latest", image, Revalidated, 0)
				s.wantAsked("GET", "HEAD", "GET")
				s.want("latest", image, Hit, 0)
				next := s.upstream.AddImage(first, "latest", []byte("next"))
				age()
				s.want("latest", next, Miss, 0)
				s.wantAsked("HEAD", "GET")
			})
		})
	}
}

func TestAQuotaThatRunsLowIsSpared(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.upstream.SetRateLimit(100, 3, 6*time.Hour, time.Hour)
		s.want("latest", image, Miss, 0)
		s.wantAsked("GET")
		age()
		s.want("latest", image, Stale, 0)
		s.wantAsked()
		time.Sleep(lowQuotaFresh)
		s.want("latest", image, Revalidated, 0)
		s.wantAsked("HEAD")
	})
}
