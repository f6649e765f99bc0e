package upstreamtest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestFaultsAreSeen(t *testing.T) {
	const size = 300_000
	for _, test := range []struct {
		name  string
		fault upstreamtest.Fault
		seen  func(r response, content []byte) bool
	}{
		{"refused", upstreamtest.Refuse(503), func(r response, _ []byte) bool { return r.StatusCode == 503 }},
		{"too many requests", upstreamtest.TooManyRequests("17"), func(r response, _ []byte) bool {
			return r.StatusCode == 429 && r.Header.Get("Retry-After") == "17"
		}},
		{"captive portal", upstreamtest.Answer(200, "text/html", []byte("<p>Pay")), func(r response, _ []byte) bool {
			return r.StatusCode == 200 && string(r.body) == "<p>Pay"
		}},
		{"schema 1", upstreamtest.Schema1(), func(r response, _ []byte) bool {
			return strings.Contains(r.Header.Get("Content-Type"), "v1+prettyjws") && bytes.Contains(r.body, []byte(`"schemaVersion":1`))
		}},
		{"redirect", upstreamtest.RedirectTo("http://example.com/"), func(r response, _ []byte) bool {
			return r.StatusCode == 307 && r.Header.Get("Location") == "http://example.com/"
		}},
		{"cut", upstreamtest.Cut(1000), func(r response, content []byte) bool {
			return r.ContentLength == size && errors.Is(r.err, io.ErrUnexpectedEOF) && bytes.Equal(r.body, content[:1000])
		}},
		{"cut at once", upstreamtest.Cut(0), func(r response, _ []byte) bool {
			return r.ContentLength == size && r.err != nil && len(r.body) == 0
		}},
		{"cut at half", upstreamtest.CutHalf(), func(r response, content []byte) bool {
			return r.ContentLength == size && r.err != nil && bytes.Equal(r.body, content[:size/2])
		}},
		{"flipped byte", upstreamtest.FlipByte(size - 1), func(r response, content []byte) bool {
			return r.err == nil && bytes.Equal(r.body[:size-1], content[:size-1]) && r.body[size-1] != content[size-1]
		}},
		{"declares more", upstreamtest.ContentLength(5), func(r response, content []byte) bool {
			return r.ContentLength == size+5 && r.err != nil && bytes.Equal(r.body, content)
		}},
		{"declares less", upstreamtest.ContentLength(-5), func(r response, content []byte) bool {
			return r.ContentLength == size-5 && r.err == nil && bytes.Equal(r.body, content[:size-5])
		}},
		{"wrong digest", upstreamtest.Digest("sha256:00"), func(r response, _ []byte) bool {
			return r.Header.Get("Docker-Content-Digest") == "sha256:00"
		}},
		{"no digest", upstreamtest.Digest(""), func(r response, _ []byte) bool {
			return len(r.Header.Values("Docker-Content-Digest")) == 0
		}},
		{"chunked", upstreamtest.Chunked(), func(r response, content []byte) bool {
			return r.ContentLength == -1 && r.err == nil && bytes.Equal(r.body, content)
		}},
		{"gzip", upstreamtest.Gzip(), func(r response, content []byte) bool {
			unzipped, err := gzip.NewReader(bytes.NewReader(r.body))
			if err != nil || r.Header.Get("Content-Encoding") != "gzip" {
				return false
			}
			body, err := io.ReadAll(unzipped)
			return err == nil && bytes.Equal(body, content)
		}},
		{"slow", upstreamtest.Rate(size * 10), func(r response, content []byte) bool { return bytes.Equal(r.body, content) }},
		{"later", upstreamtest.WaitFor(time.Millisecond), func(r response, content []byte) bool { return bytes.Equal(r.body, content) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			upstream := upstreamtest.Start(t)
			blob := upstream.AddBlob("a", upstreamtest.Bytes(1, size))
			url := upstream.URL() + "/v2/a/blobs/" + blob.Digest.String()
			upstream.Fault(upstreamtest.Match{Method: "GET", First: 1}, test.fault)
			want(t, ask(t, "HEAD", url), 200, nil)
			r := ask(t, "GET", url)
			if !test.seen(r, blob.Content) {
				t.Errorf("got %s, %v, %d bytes, %v", r.Status, r.Header, len(r.body), r.err)
			}
			if last := upstream.Requests()[1]; last.Sent != int64(len(r.body)) || last.Status != r.StatusCode {
				t.Errorf("the log has %d with %d bytes, %d with %d came", last.Status, last.Sent, r.StatusCode, len(r.body))
			}
			want(t, ask(t, "GET", url), 200, blob.Content) // the fault was for the first
		})
	}
}

func TestFaultsOfRanges(t *testing.T) {
	upstream := upstreamtest.Start(t)
	blob := upstream.AddBlob("a", []byte("0123456789"))
	url := upstream.URL() + "/v2/a/blobs/" + blob.Digest.String()
	undo := upstream.Fault(upstreamtest.Match{}, upstreamtest.IgnoreRange())
	want(t, ask(t, "GET", url, "Range", "bytes=5-"), 200, blob.Content)
	undo()
	upstream.Fault(upstreamtest.Match{}, upstreamtest.FlipByte(6))
	want(t, ask(t, "GET", url, "Range", "bytes=5-7"), 206, []byte{'5', '6' ^ 0xff, '7'})
	upstream.Fault(upstreamtest.Match{}, upstreamtest.Cut(1))
	if r := ask(t, "GET", url, "Range", "bytes=5-7"); string(r.body) != "5" || r.err == nil {
		t.Errorf("got %q, %v", r.body, r.err)
	}
	upstream.Heal()
	want(t, ask(t, "GET", url, "Range", "bytes=5-7"), 206, []byte("567"))
}

func TestRuleCounts(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.AddImage("a", "1")
	upstream.Fault(upstreamtest.Match{Method: "HEAD", Path: "^/v2/a/manifests/", Skip: 1, First: 2}, upstreamtest.Refuse(405))
	var got []int
	for range 4 {
		ask(t, "GET", upstream.URL()+"/v2/a/manifests/1")
		got = append(got, ask(t, "HEAD", upstream.URL()+"/v2/a/manifests/1").StatusCode)
	}
	for i, status := range []int{200, 405, 405, 200} {
		if got[i] != status {
			t.Fatalf("got %v", got)
		}
	}
}

func TestRedirectLoopNeverEnds(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.Fault(upstreamtest.Match{}, upstreamtest.RedirectLoop())
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(upstream.URL() + "/v2/")
	if err == nil {
		resp.Body.Close()
		t.Errorf("it ended with %s", resp.Status)
	}
	if n := len(upstream.Requests()); n != 10 { // what net/http has patience for
		t.Errorf("%d requests", n)
	}
}

func TestEndlessBodyEndsWithItsReader(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.AddImage("a", "1")
	upstream.Fault(upstreamtest.Match{}, upstreamtest.Endless())
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request(t, t.Context(), upstream.URL()+"/v2/a/manifests/1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 10<<20); err != nil {
		t.Error(err)
	}
	resp.Body.Close()
	eventually(t, func() bool { return len(upstream.Requests().Active()) == 0 })
}

func TestStallAndSlowFirstByteGoOnWhenReleased(t *testing.T) {
	upstream := upstreamtest.Start(t)
	blob := upstream.AddBlob("a", upstreamtest.Bytes(1, 100_000))
	url := upstream.URL() + "/v2/a/blobs/" + blob.Digest.String()
	release := make(chan struct{})
	upstream.Fault(upstreamtest.Match{First: 1}, upstreamtest.WaitUntil(release))
	upstream.Fault(upstreamtest.Match{First: 1, Skip: 1}, upstreamtest.Stall(50_000, release))
	done := make(chan response)
	for i := range 2 {
		go func() { done <- ask(t, "GET", url) }()
		eventually(t, func() bool { return len(upstream.Requests()) == i+1 })
	}
	eventually(t, func() bool { return upstream.Requests()[1].Sent == 50_000 })
	if first := upstream.Requests()[0]; first.Status != 0 || first.Sent != 0 {
		t.Errorf("the first byte was not held back: %+v", first)
	}
	select {
	case r := <-done:
		t.Fatalf("nothing stalled: %s", r.Status)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	for range 2 {
		want(t, <-done, 200, blob.Content)
	}
}

func TestStallForEverEndsWithItsReader(t *testing.T) {
	upstream := upstreamtest.Start(t)
	blob := upstream.AddBlob("a", upstreamtest.Bytes(1, 1000))
	upstream.Fault(upstreamtest.Match{}, upstreamtest.Stall(10, nil))
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request(t, ctx, upstream.URL()+"/v2/a/blobs/"+blob.Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	cancel()
	eventually(t, func() bool { return len(upstream.Requests().Active()) == 0 })
}

func request(t *testing.T, ctx context.Context, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func eventually(t *testing.T, come func() bool) {
	t.Helper()
	for range 1000 {
		if come() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it never came")
}
