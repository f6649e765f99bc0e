package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pull asks for a manifest, which all of these tests can fail.
func pull(t *testing.T, c *Client) error {
	t.Helper()
	_, err := c.Manifest(t.Context(), "a", byTag("v1"))
	return err
}

func TestAnEndpointThatFailsIsLeftAlone(t *testing.T) {
	for name, fails := range map[string]struct {
		config  Config
		handler func(http.ResponseWriter, *http.Request)
		kind    error
	}{
		"5xx": {Config{}, status(http.StatusInternalServerError), ErrUnavailable},
		"refused": {Config{dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}}, nil, ErrUnavailable},
		"no address":    {Config{dial: func(context.Context, string, string) (net.Conn, error) { return nil, &net.DNSError{IsNotFound: true} }}, nil, ErrUnavailable},
		"DNS is silent": {Config{dial: func(context.Context, string, string) (net.Conn, error) { return nil, &net.DNSError{IsTimeout: true} }}, nil, ErrTimeout},
		"no answer":     {Config{}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, ErrTimeout},
		"hangs up":      {Config{}, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, ErrUnavailable},
		"stalls":        {Config{}, func(w http.ResponseWriter, r *http.Request) { answerStalling(w, r, testImage) }, ErrTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				var ups []bool
				config := fails.config
				config.Log = slog.New(slog.NewTextHandler(&log, nil))
				config.Metrics.Up = func(up bool) { ups = append(ups, up) }
				c, _ := memoryClient(t, config, fails.handler)
				for range maxFailures {
					if err := c.Paused(); err != nil {
						t.Errorf("paused too early: %v", err)
					}
					wantKind(t, pull(t, c), fails.kind)
				}
				before := time.Now()
				wantKind(t, pull(t, c), ErrUnavailable)
				wantKind(t, c.Paused(), ErrUnavailable)
				if took := time.Since(before); took != 0 {
					t.Errorf("the refusal took %v", took)
				}
				if !slices.Equal(ups, []bool{true, false}) || strings.Count(log.String(), "does not answer") != 1 {
					t.Errorf("up %v, log %s", ups, &log)
				}
			})
		})
	}
}

// answerStalling sends a part of content and then nothing.
func answerStalling(w http.ResponseWriter, r *http.Request, content string) {
	w.Header().Set("Content-Type", imagespec.MediaTypeImageManifest)
	io.WriteString(w, content[:len(content)/2])
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func TestOneRequestTriesWhetherAnEndpointIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down, held atomic.Bool
		down.Store(true)
		release := make(chan struct{})
		var ups []bool
		var text bytes.Buffer
		c, log := memoryClient(t, Config{Metrics: ClientMetrics{Up: func(up bool) { ups = append(ups, up) }}, Log: slog.New(slog.NewTextHandler(&text, nil))},
			func(w http.ResponseWriter, r *http.Request) {
				if held.Load() {
					<-release
				}
				if down.Load() {
					w.WriteHeader(http.StatusBadGateway)
					return
				}
				answerImage()(w, r)
			})
		for range maxFailures {
			wantKind(t, pull(t, c), ErrUnavailable)
		}
		time.Sleep(openFor + 1)
		if err := c.Paused(); err != nil {
			t.Errorf("still paused: %v", err)
		}
		wantKind(t, pull(t, c), ErrUnavailable) // the probe
		wantKind(t, pull(t, c), ErrUnavailable)
		if n := log.count(); n != maxFailures+1 {
			t.Errorf("%d requests, want one probe after %d", n, maxFailures)
		}

		time.Sleep(openFor + 1)
		held.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := c.Manifest(ctx, "a", byTag("v1")); !errors.Is(err, context.Canceled) {
				t.Errorf("the probe: %v", err)
			}
		})
		synctest.Wait()
		wantKind(t, pull(t, c), ErrUnavailable)
		wantKind(t, c.Paused(), ErrUnavailable)
		cancel()
		wait.Wait()
		close(release)

		// The probe that was canceled does not keep the next from being sent.
		down.Store(false)
		for range 2 {
			if err := pull(t, c); err != nil {
				t.Error(err)
			}
		}
		if !slices.Equal(ups, []bool{true, false, true}) || strings.Count(text.String(), "answers again") != 1 {
			t.Errorf("up %v, log %s", ups, &text)
		}
	})
}

func TestWhatIsNoOutageIsNotTakenForOne(t *testing.T) {
	for _, code := range []int{http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden, http.StatusNoContent} {
		url, log := serve(t, status(code))
		c := clientOf(t, Config{}, url)
		for range 2 * maxFailures {
			pull(t, c)
		}
		if err := c.Paused(); err != nil || log.count() != 2*maxFailures {
			t.Errorf("after %d: %v, %d requests", code, err, log.count())
		}
	}
}

func TestCallersThatGiveUpSayNothingOfTheUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var codes []string
		c, _ := memoryClient(t, Config{Metrics: ClientMetrics{Request: func(code string) { codes = append(codes, code) }}},
			func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		for range 2 * maxFailures {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := c.Manifest(ctx, "a", byTag("v1"))
			if cancel(); !errors.Is(err, context.DeadlineExceeded) || kindOf(err) != nil {
				t.Errorf("deadline: %v", err)
			}
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			if _, err := c.Manifest(ctx, "a", byTag("v1")); !errors.Is(err, context.Canceled) || kindOf(err) != nil {
				t.Errorf("canceled: %v", err)
			}
		}
		if err := c.Paused(); err != nil {
			t.Errorf("paused: %v", err)
		}
		if want := slices.Repeat([]string{"error", "canceled"}, 2*maxFailures); !slices.Equal(codes, want) {
			t.Errorf("counted %v, want %v", codes, want)
		}
	})
}

func TestAfter429NothingIsAskedUntilItMayBe(t *testing.T) {
	for name, test := range map[string]struct {
		header string
		want   time.Duration
	}{
		"seconds":  {"7", 7 * time.Second},
		"a date":   {"Sat, 01 Jan 2000 00:01:30 GMT", 90 * time.Second}, // synctest's time begins in 2000
		"nothing":  {"", time.Minute},
		"nonsense": {"soon", time.Minute},
		"too long": {"999999", time.Hour},
		"zero":     {"0", time.Second},
		"the past": {"Fri, 01 Jan 1999 00:00:00 GMT", time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, log := memoryClient(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
					if test.header != "" {
						w.Header().Set("Retry-After", test.header)
					}
					w.WriteHeader(http.StatusTooManyRequests)
				})
				wantAfter := func(err error, want time.Duration) {
					t.Helper()
					wantKind(t, err, ErrRateLimited)
					var limited *RateLimitError
					if !errors.As(err, &limited) || limited.RetryAfter != want {
						t.Errorf("%+v, want %v", limited, want)
					}
				}
				wantAfter(pull(t, c), test.want)
				time.Sleep(test.want - time.Second/2)
				wantAfter(pull(t, c), time.Second/2)
				wantAfter(c.Paused(), time.Second/2)
				if log.count() != 1 {
					t.Errorf("asked %d times", log.count())
				}
				time.Sleep(time.Second / 2)
				if err := c.Paused(); err != nil {
					t.Error(err)
				}
				wantKind(t, pull(t, c), ErrRateLimited)
				if log.count() != 2 {
					t.Errorf("asked %d times", log.count())
				}
			})
		})
	}
}

func TestRequestsAreCounted(t *testing.T) {
	var mu sync.Mutex
	counts := map[string]int{}
	count := func(code string) {
		mu.Lock()
		defer mu.Unlock()
		counts[code]++
	}
	storage, _ := serve(t, answerWith("x"))
	tokens, _ := serve(t, answerWith(`{"token":"t"}`))
	url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") == "":
			challenge(w, tokens)
		case strings.Contains(r.URL.Path, "/manifests/"):
			w.WriteHeader(http.StatusNotFound)
		default:
			http.Redirect(w, r, storage, http.StatusTemporaryRedirect)
		}
	})
	c := clientOf(t, Config{Metrics: ClientMetrics{Request: count}}, closedURL(t), url)
	b, err := c.Blob(t.Context(), "a", testDigest, 0, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	pull(t, c)
	if got, want := fmt.Sprint(counts), "map[200:2 307:1 401:1 404:1 error:2]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
