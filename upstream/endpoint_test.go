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

	"github.com/opencontainers/go-digest"
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

func TestQuotaIsKnownFromAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var remaining atomic.Value
		var told []float64
		c, _ := memoryClient(t, Config{Metrics: ClientMetrics{RateLimitRemaining: func(n float64) { told = append(told, n) }}},
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ratelimit-limit", "100;w=21600")
				w.Header().Set("ratelimit-remaining", remaining.Load().(string))
				answerImage()(w, r)
			})
		if c.QuotaLow() {
			t.Error("low before anything is known")
		}
		for _, test := range []struct {
			header string
			low    bool
		}{{"76;w=21600", false}, {"6;w=21600", false}, {"5;w=21600", true}, {"nonsense", true}, {"2", true}, {"0;w=60", true}} {
			remaining.Store(test.header)
			if err := pull(t, c); err != nil {
				t.Fatal(err)
			}
			if c.QuotaLow() != test.low {
				t.Errorf("%s: low is %v", test.header, c.QuotaLow())
			}
		}
		if !slices.Equal(told, []float64{76, 6, 5, 2, 0}) {
			t.Errorf("told %v", told)
		}
		time.Sleep(time.Minute)
		if c.QuotaLow() {
			t.Error("still low when the window is over")
		}
	})
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

func TestBlobRanges(t *testing.T) {
	const content = "0123456789"
	ranged := func(contentRange, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", contentRange)
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, body)
		}
	}
	whole := gzipped(content)
	encodedRange := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(whole))
	}
	unsized := func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		io.WriteString(w, content)
	}
	for name, test := range map[string]struct {
		handler            http.HandlerFunc
		offset, size       int64
		body               string
		bodySize, bodyFrom int64
		err                error
	}{
		"whole":                      {answerWith(content), 0, 10, content, 10, 0, nil},
		"whole, size unknown":        {answerWith(content), 0, -1, content, 10, 0, nil},
		"no length":                  {unsized, 0, 10, content, -1, 0, nil},
		"rest":                       {ranged("bytes 4-9/10", "456789"), 4, 10, "456789", 10, 4, nil},
		"part of the rest":           {ranged("bytes 4-6/10", "456"), 4, -1, "456", 10, 4, nil},
		"rest of who knows":          {ranged("bytes 4-9/*", "456789"), 4, 10, "456789", -1, 4, nil},
		"range ignored":              {answerWith(content), 4, 10, content, 10, 0, nil},
		"another range":              {ranged("bytes 5-9/10", "56789"), 4, 10, "", 0, 0, ErrInvalid},
		"nonsense range":             {ranged("bytes 4-10/10", "456789"), 4, 10, "", 0, 0, ErrInvalid},
		"no range":                   {ranged("", "456789"), 4, 10, "", 0, 0, ErrInvalid},
		"range not asked for":        {ranged("bytes 4-9/10", "456789"), 0, 10, "", 0, 0, ErrInvalid},
		"range unsatisfiable":        {status(http.StatusRequestedRangeNotSatisfiable), 4, 10, "", 0, 0, ErrInvalid},
		"wrong length":               {answerWith(content), 0, 11, "", 0, 0, ErrInvalid},
		"wrong length of range":      {ranged("bytes 4-9/10", "456789"), 4, 11, "", 0, 0, ErrInvalid},
		"absent":                     {status(http.StatusNotFound), 0, 10, "", 0, 0, ErrNotFound},
		"encoded":                    {answerWith(whole, "Content-Encoding", "gzip"), 0, 10, content, -1, 0, nil},
		"encoded by another name":    {answerWith(whole, "Content-Encoding", "X-GZIP"), 0, 10, content, -1, 0, nil},
		"encoded range":              {encodedRange, 4, 10, content, -1, 0, nil},
		"a gzip file called encoded": {answerWith(whole, "Content-Encoding", "gzip"), 0, int64(len(whole)), whole, int64(len(whole)), 0, nil},
		"range of such a file":       {encodedRange, 4, int64(len(whole)), whole[4:], int64(len(whole)), 4, nil},
		"maybe encoded":              {answerWith(whole, "Content-Encoding", "gzip"), 0, -1, whole, int64(len(whole)), 0, nil},
		"called encoded and is not":  {answerWith(content, "Content-Encoding", "gzip"), 0, 11, "", 0, 0, ErrInvalid},
		"encoded in an unknown way":  {answerWith(content, "Content-Encoding", "br"), 0, 11, "", 0, 0, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			url, log := serve(t, test.handler)
			b, err := clientOf(t, Config{}, url).Blob(t.Context(), "a", testDigest, test.offset, 0, test.size)
			wantKind(t, err, test.err)
			if r := log.all()[0]; (r.Header.Get("Range") != "") != (test.offset > 0) || r.Header.Get("Accept-Encoding") != "identity" {
				t.Errorf("asked with %v", r.Header)
			}
			if err != nil {
				return
			}
			defer b.Close()
			body, err := io.ReadAll(b)
			if err != nil || string(body) != test.body || b.Size != test.bodySize || b.Offset != test.bodyFrom {
				t.Errorf("%v: %q of %d from %d", err, body, b.Size, b.Offset)
			}
		})
	}
}

func TestBlobsComeFromTheURLThatIsAskedFor(t *testing.T) {
	var urls []string
	for i := range 3 {
		url, _ := serve(t, answerWith(fmt.Sprint(i)))
		urls = append(urls, url)
	}
	c := clientOf(t, Config{}, urls[0], closedURL(t), urls[2])
	for first, want := range []int{0, 2, 2, 0, 2} {
		b, err := c.Blob(t.Context(), "a", testDigest, 0, first, -1)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(b)
		if b.Close(); err != nil || b.Endpoint != want || string(body) != fmt.Sprint(want) {
			t.Errorf("first %d: %s from %d, %v", first, body, b.Endpoint, err)
		}
	}
}

func TestBodiesThatEndEarlyAreNoticed(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"stalls": {func(w http.ResponseWriter, r *http.Request) { answerStalling(w, r, "0123456789") }, ErrTimeout},
		"cut": {func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "01234")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, ErrUnavailable},
		"cut while encoded": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			content := gzipped(strings.Repeat("0123456789", 1000))
			io.WriteString(w, content[:len(content)-9])
		}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := memoryClient(t, Config{}, test.handler)
				b, err := c.Blob(t.Context(), "a", testDigest, 0, 0, 10_000)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Close()
				p := make([]byte, 1)
				if _, err := io.ReadFull(b, p); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * stallLimit) // of the reader, which may take its time
				_, err = io.Copy(io.Discard, b)
				wantKind(t, err, test.want)
			})
		})
	}
}

func TestABodyEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := memoryClient(t, Config{}, func(w http.ResponseWriter, r *http.Request) { answerStalling(w, r, "0123456789") })
		ctx, cancel := context.WithCancel(t.Context())
		b, err := c.Blob(ctx, "a", testDigest, 0, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		time.AfterFunc(time.Second, cancel)
		if _, err := io.Copy(io.Discard, b); !errors.Is(err, context.Canceled) || kindOf(err) != nil {
			t.Error(err)
		}
	})
}

func TestStatBlob(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    int64
		err     error
	}{
		"size":    {answerWith("0123456789"), 10, nil},
		"no size": {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, -1, nil},
		"encoded": {answerWith("0123456789", "Content-Encoding", "gzip"), -1, nil},
		"absent":  {status(http.StatusNotFound), 0, ErrNotFound},
	} {
		url, _ := serve(t, test.handler)
		size, err := clientOf(t, Config{}, url).StatBlob(t.Context(), "a", testDigest)
		if wantKind(t, err, test.err); err == nil && size != test.want {
			t.Errorf("%s: %d", name, size)
		}
	}
}

func TestTagsOfAllPages(t *testing.T) {
	for name, link := range map[string]string{
		"relative":         `</v2/a/tags/list?last=v2&n=2>; rel="next"`,
		"query alone":      `<?last=v2&n=2>;rel=next`,
		"absolute":         `<http://%s/v2/a/tags/list?last=v2&n=2>; rel="next"`,
		"of an inner name": `<http://registry:5000/v2/a/tags/list?last=v2&n=2>; rel="next"`,
		"among others":     `</v2/a/tags/list>; rel="first", </v2/a/tags/list?last=v2&n=2>; title="x"; REL="Next"`,
	} {
		t.Run(name, func(t *testing.T) {
			url, log := serve(t, func(w http.ResponseWriter, r *http.Request) {
				defer w.(http.Flusher).Flush() // so that the end comes by itself
				switch r.URL.RequestURI() {
				case "/base/v2/a/tags/list?n=1000":
					w.Header().Set("Link", strings.Replace(link, "%s", r.Host, 1))
					io.WriteString(w, listOf("v2", "v1", "not a tag"))
				case "/base/v2/a/tags/list?last=v2&n=2":
					io.WriteString(w, listOf("v3", "v2", "V9"))
				default:
					w.WriteHeader(http.StatusTeapot)
				}
			})
			tags, err := clientOf(t, Config{}, url+"/base/").Tags(t.Context(), "a")
			if err != nil || !slices.Equal(tags, []string{"V9", "v1", "v2", "v3"}) {
				t.Errorf("%v, %v", tags, err)
			}
			if asked := log.all(); len(asked) != 2 || asked[0].RemoteAddr != asked[1].RemoteAddr {
				t.Errorf("%d requests, want two on one connection", len(asked))
			}
		})
	}
}

func TestListsAreBounded(t *testing.T) {
	var page atomic.Int32
	next := func(w http.ResponseWriter, query string) {
		w.Header().Set("Link", `</v2/a/tags/list?`+query+`>; rel="next"`)
	}
	many := make([]string, 1000)
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"none": {answerWith(`{"name":"a","tags":null}`), nil},
		"circle": {func(w http.ResponseWriter, _ *http.Request) {
			next(w, "n=1000")
			io.WriteString(w, listOf("v1"))
		}, ErrInvalid},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			next(w, fmt.Sprint("last=", page.Add(1)))
			io.WriteString(w, listOf("v1"))
		}, ErrInvalid},
		"too many": {func(w http.ResponseWriter, _ *http.Request) {
			n := page.Add(1)
			for i := range many {
				many[i] = fmt.Sprintf("v%d.%d", n, i)
			}
			next(w, fmt.Sprint("last=", n))
			io.WriteString(w, listOf(many...))
		}, ErrInvalid},
		"too large": {answerWith(`{"tags":["` + strings.Repeat("x", maxListBytes) + `"]}`), ErrInvalid},
		"no JSON":   {answerWith(`<html>`), ErrInvalid},
		"cut":       {answerWith(`{"tags":["v1"`), ErrInvalid},
		"absent":    {status(http.StatusNotFound), ErrNotFound},
		"down":      {status(http.StatusServiceUnavailable), ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			url, log := serve(t, test.handler)
			tags, err := clientOf(t, Config{}, url).Tags(t.Context(), "a")
			wantKind(t, err, test.want)
			if len(tags) != 0 || log.count() > maxPages {
				t.Errorf("%d tags after %d requests", len(tags), log.count())
			}
		})
	}
}

func TestReferrers(t *testing.T) {
	desc := func(s string) imagespec.Descriptor {
		return imagespec.Descriptor{MediaType: imagespec.MediaTypeImageManifest, Digest: digest.FromString(s), Size: 1, ArtifactType: "x/" + s}
	}
	api := "/v2/a/referrers/" + testDigest.String()
	tagged := "/v2/a/manifests/sha256-" + testDigest.Encoded()
	index := func(descs ...imagespec.Descriptor) http.HandlerFunc {
		return answerWith(indexOf(descs...), "Content-Type", imagespec.MediaTypeImageIndex)
	}
	for name, test := range map[string]struct {
		handlers map[string]http.HandlerFunc
		want     []string
		err      error
	}{
		"API": {map[string]http.HandlerFunc{api: index(desc("1"), imagespec.Descriptor{Digest: "nonsense"})}, []string{"x/1"}, nil},
		"pages": {map[string]http.HandlerFunc{api: func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("last") == "" {
				w.Header().Set("Link", `<`+api+`?last=1>; rel="next"`)
				index(desc("1"))(w, r)
				return
			}
			index(desc("2"))(w, r)
		}}, []string{"x/1", "x/2"}, nil},
		"API that has none":           {map[string]http.HandlerFunc{api: index(), tagged: index(desc("1"))}, nil, nil},
		"tagged":                      {map[string]http.HandlerFunc{tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"tagged, API not allowed":     {map[string]http.HandlerFunc{api: status(http.StatusMethodNotAllowed), tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"tagged, API is not built":    {map[string]http.HandlerFunc{api: status(http.StatusNotImplemented), tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"tagged, API is a web page":   {map[string]http.HandlerFunc{api: answerWith("<html>", "Content-Type", "text/html"), tagged: index(desc("1"))}, []string{"x/1"}, nil},
		"the tag is of another thing": {map[string]http.HandlerFunc{tagged: answerImage()}, nil, nil},
		"none":                        {nil, nil, nil},
		"denied":                      {map[string]http.HandlerFunc{api: status(http.StatusForbidden)}, nil, ErrDenied},
		"down":                        {map[string]http.HandlerFunc{api: status(http.StatusBadGateway)}, nil, ErrUnavailable},
		"down for the tag":            {map[string]http.HandlerFunc{tagged: status(http.StatusBadGateway)}, nil, ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			mirror, _ := serve(t, status(http.StatusNotFound))
			url, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if h := test.handlers[r.URL.Path]; h != nil {
					h(w, r)
					return
				}
				w.WriteHeader(http.StatusNotFound)
			})
			found, err := clientOf(t, Config{}, mirror, url).Referrers(t.Context(), "a", testDigest)
			wantKind(t, err, test.err)
			var got []string
			for _, desc := range found {
				got = append(got, desc.ArtifactType)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	sha512 := digest.SHA512.FromString("x")
	url, log := serve(t, status(http.StatusNotFound))
	if _, err := clientOf(t, Config{}, url).Referrers(t.Context(), "a", sha512); err != nil {
		t.Error(err)
	}
	if got, want := log.all()[1].URL.Path, "/v2/a/manifests/sha512-"+sha512.Encoded()[:64]; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}
