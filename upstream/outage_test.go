package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestAnOutageIsNotNoticed pulls a tag that is not fresh while its upstream fails.
func TestAnOutageIsNotNoticed(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(*still)
		waits time.Duration // the first client
	}{
		{"down", func(s *still) { s.down.Store(true); s.client.Close() }, 0},
		{"500", func(s *still) { s.upstream.Fault(upstreamtest.Match{}, upstreamtest.Refuse(500)) }, 0},
		{"404", func(s *still) { s.upstream.DeleteRepository(first) }, 0},
		{"429", func(s *still) { s.upstream.Fault(upstreamtest.Match{}, upstreamtest.TooManyRequests("3600")) }, 0},
		{"black hole", func(s *still) { s.silent.Store(true) }, patience},
		{"slow", func(s *still) { s.upstream.SetLatency(5 * time.Second) }, patience},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
				s.upstream.MoveTag(first, "other", image.Manifest.Digest)
				s.want("other", image, Miss, 0)
				s.want("latest", image, Miss, 0)
				age()
				s.asked.seen = nil
				c.begin(s)
				s.want("latest", image, Stale, c.waits)
				s.want("latest", image, Stale, 0)
				s.want("latest", image, Stale, 0)
				s.want("other", image, Stale, 0)
				// Nor is the upstream asked again each time.
				for range 100 {
					s.want("latest", image, Stale, 0)
				}
				synctest.Wait()
				if n := s.asked.count(); n > 2 {
					t.Errorf("the upstream was asked %d times", n)
				}
				if got := s.counts.get().results[Stale]; got != 104 {
					t.Errorf("%d stale answers are counted", got)
				}
				s.endOutage()
				time.Sleep(2 * time.Hour) // the longest pause is over
				if c.name == "404" {
					return
				}
				for _, tag := range []string{"latest", "other"} {
					s.get(manifestPath(first, tag))
					time.Sleep(10 * time.Second)
					s.want(tag, image, Hit, 0)
				}
			})
		})
	}
}

func (s *still) endOutage() {
	s.down.Store(false)
	s.upstream.Heal()
	s.upstream.SetLatency(0)
	s.silent.Store(false)
}

// TestASlowUpstreamIsAskedInTheBackground has a tag move at an upstream that takes longer
// than anybody waits.
func TestASlowUpstreamIsAskedInTheBackground(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.want("latest", image, Miss, 0)
		next := s.upstream.AddImage(first, "latest", []byte("next"))
		age()
		s.upstream.SetLatency(2 * time.Second)
		s.want("latest", image, Stale, patience)
		time.Sleep(5 * time.Second) // HEAD and GET
		s.want("latest", next, Hit, 0)
		age()
		s.want("latest", next, Stale, 0)
		synctest.Wait() // the question is on its way
		s.upstream.SetLatency(0)
		time.Sleep(5 * time.Second)
		s.want("latest", next, Hit, 0)
		age()
		s.want("latest", next, Stale, 0) // it was slow the last time
		time.Sleep(time.Second)
		age()
		s.want("latest", next, Revalidated, 0)
	})
}

func TestStaleForSoLong(t *testing.T) {
	inBubble(t, Options{StaleIfError: time.Hour}, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.want("latest", image, Miss, 0)
		s.down.Store(true)
		s.client.Close()
		time.Sleep(time.Hour)
		s.want("latest", image, Stale, 0)
		time.Sleep(2 * time.Minute)
		r, _ := s.get(manifestPath(first, "latest"))
		r.wantStatus(t, http.StatusBadGateway)
		r, _ = s.get(manifestPath(first, image.Manifest.Digest.String()))
		r.wantStatus(t, http.StatusOK, Hit)
		s.down.Store(false)
		time.Sleep(time.Minute)
		s.want("latest", image, Revalidated, 0)
		s.upstream.DeleteRepository(first)
		time.Sleep(2 * time.Hour)
		r, _ = s.get(manifestPath(first, "latest"))
		r.wantStatus(t, http.StatusNotFound)
	})
}

func TestWhatAnUpstreamRefusesIsRememberedForAWhile(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  upstreamtest.Fault
		status int
	}{
		{"404", upstreamtest.Refuse(404), 404},
		{"403", upstreamtest.Refuse(403), 403},
		{"401", upstreamtest.Refuse(401), 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Options{NotFoundTTL: 30 * time.Second}, func(t *testing.T, s *still, image upstreamtest.Image) {
				undo := s.upstream.Fault(upstreamtest.Match{}, c.fault)
				paths := []string{manifestPath(first, "latest"), manifestPath(first, image.Manifest.Digest.String()), blobPath(first, image.Layers[0]), hub + "/" + first + "/tags/list"}
				for _, path := range paths {
					r, _ := s.get(path)
					r.wantStatus(t, c.status)
				}
				s.asked.seen = nil
				undo()
				for _, path := range paths {
					r, _ := s.get(path)
					r.wantStatus(t, c.status)
				}
				s.wantAsked()
				if n := s.counts.get().results[Negative]; n != len(paths) {
					t.Errorf("%d negative answers are counted", n)
				}
				time.Sleep(30 * time.Second)
				for _, path := range paths {
					r, _ := s.get(path)
					r.wantStatus(t, http.StatusOK)
				}
				s.settle()
			})
		})
	}
}

func TestOutagesAreNotRememberedAsAbsence(t *testing.T) {
	inBubble(t, Options{NotFoundTTL: time.Hour}, func(t *testing.T, s *still, image upstreamtest.Image) {
		for _, c := range []struct {
			fault  upstreamtest.Fault
			status int
		}{{upstreamtest.Refuse(500), 502}, {upstreamtest.TooManyRequests("5"), 429}} {
			undo := s.upstream.Fault(upstreamtest.Match{}, c.fault)
			r, _ := s.get(manifestPath(first, "latest"))
			r.wantStatus(t, c.status)
			if retry := r.header.Get("Retry-After"); c.status == 429 && retry != "" {
				t.Errorf("Retry-After %s", retry)
			}
			r, _ = s.get(blobPath(first, image.Layers[0]))
			r.wantStatus(t, c.status)
			undo()
		}
		s.silent.Store(true)
		time.Sleep(time.Minute)
		r, took := s.get(manifestPath(first, "latest"))
		r.wantStatus(t, http.StatusGatewayTimeout)
		if took > time.Minute {
			t.Errorf("waited for %v", took)
		}
		s.silent.Store(false)
		time.Sleep(time.Minute)
		s.want("latest", image, Miss, 0)
	})
}

func TestAClientThatLeavesTakesNobodyWithIt(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, s *still, image upstreamtest.Image) {
		s.upstream.SetLatency(3 * time.Second)
		ctx, leave := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		clients.Go(func() { s.getFor(ctx, manifestPath(first, "latest")) })
		synctest.Wait()
		clients.Go(func() { s.want("latest", image, Miss, 3*time.Second) })
		synctest.Wait()
		leave()
		clients.Wait()
		s.wantAsked("GET")

		// Nor is a client's own deadline the upstream's failure.
		for i := range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := s.view(hub+"/"+first, new([]Result)).Manifest(ctx, hub+"/"+first, storage.Reference{Tag: fmt.Sprint("absent", i)})
			if !errors.Is(err, context.DeadlineExceeded) || kindOf(err) != nil {
				t.Errorf("the error of a client's deadline is %v", err)
			}
			cancel()
		}
		if err := s.client.Paused(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}
