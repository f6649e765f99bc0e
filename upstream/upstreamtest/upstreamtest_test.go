package upstreamtest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// response is an answer with as much of its body as came.
type response struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

// ask makes a request. Headers are names and values in turn.
func ask(t *testing.T, method, url string, headers ...string) response {
	t.Helper()
	r, err := try(t, method, url, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func try(t *testing.T, method, url string, headers ...string) (response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	// A transport of its own, so that no connection is one that was cut before.
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{resp, body, err}, nil
}

func want(t *testing.T, r response, status int, body []byte) {
	t.Helper()
	if r.StatusCode != status || r.err != nil || string(r.body) != string(body) {
		t.Errorf("got %d with %d bytes (%.60q), %v; want %d with %d", r.StatusCode, len(r.body), r.body, r.err, status, len(body))
	}
}

func TestImageIsServedByTagAndDigest(t *testing.T) {
	upstream := upstreamtest.Start(t)
	image := upstream.AddImage("library/alpine", "3.22", upstreamtest.Bytes(1, 5000), upstreamtest.Bytes(2, 10))
	base := upstream.URL() + "/v2/library/alpine"
	for _, reference := range []string{"3.22", image.Manifest.Digest.String()} {
		r := ask(t, "GET", base+"/manifests/"+reference, "Accept", imagespec.MediaTypeImageManifest)
		want(t, r, 200, image.Manifest.Content)
		if r.Header.Get("Content-Type") != image.Manifest.MediaType || r.Header.Get("Docker-Content-Digest") != image.Manifest.Digest.String() {
			t.Errorf("%s: header is %v", reference, r.Header)
		}
		head := ask(t, "HEAD", base+"/manifests/"+reference)
		want(t, head, 200, nil)
		if head.ContentLength != image.Manifest.Size {
			t.Errorf("HEAD says %d bytes", head.ContentLength)
		}
	}
	for _, blob := range image.Blobs() {
		want(t, ask(t, "GET", base+"/blobs/"+blob.Digest.String()), 200, blob.Content)
	}
	if sent := upstream.Requests().Method("GET").Sent(); sent != image.Size()+image.Manifest.Size {
		t.Errorf("%d bytes were sent of an image of %d", sent, image.Size())
	}
	if other := upstream.AddImage("other/name", "1", upstreamtest.Bytes(1, 5000), upstreamtest.Bytes(2, 10)); other.Manifest.Digest != image.Manifest.Digest {
		t.Error("equal layers gave another digest")
	}
}

func TestWhatIsNotThere(t *testing.T) {
	upstream := upstreamtest.Start(t)
	image := upstream.AddImage("a/b", "1", []byte("x"))
	base := upstream.URL() + "/v2/a/b"
	for path, status := range map[string]int{
		"/v2/":                  200,
		"/v2":                   200,
		"/v2/no/such/tags/list": 404,
		"/v2/a/b/manifests/2":   404,
		"/v2/a/b/blobs/" + digest.FromString("y").String(): 404,
		"/":                 404,
		"/v2/a/b/uploads/1": 404,
	} {
		if r := ask(t, "GET", upstream.URL()+path); r.StatusCode != status {
			t.Errorf("%s is %s, want %d", path, r.Status, status)
		}
	}
	if r := ask(t, "PUT", base+"/manifests/1"); r.StatusCode != 405 {
		t.Errorf("a push is %s", r.Status)
	}
	if r := ask(t, "GET", base+"/manifests/1", "Accept", imagespec.MediaTypeImageIndex); r.StatusCode != 404 {
		t.Errorf("an image for a client that only takes indexes is %s", r.Status)
	}
	upstream.DeleteBlob("a/b", image.Layers[0].Digest)
	upstream.DeleteManifest("a/b", image.Manifest.Digest)
	for _, path := range []string{"/blobs/" + image.Layers[0].Digest.String(), "/manifests/1", "/manifests/" + image.Manifest.Digest.String()} {
		if r := ask(t, "GET", base+path); r.StatusCode != 404 {
			t.Errorf("deleted %s is %s", path, r.Status)
		}
	}
}

func TestTagMovesAndGoes(t *testing.T) {
	upstream := upstreamtest.Start(t)
	one := upstream.AddImage("a", "latest", []byte("1"))
	two := upstream.AddImage("a", "", []byte("2"))
	url := upstream.URL() + "/v2/a/manifests/latest"
	want(t, ask(t, "GET", url, "If-None-Match", `"`+one.Manifest.Digest.String()+`"`), 304, nil)
	upstream.MoveTag("a", "latest", two.Manifest.Digest)
	want(t, ask(t, "GET", url, "If-None-Match", `"`+one.Manifest.Digest.String()+`"`), 200, two.Manifest.Content)
	upstream.DeleteTag("a", "latest")
	if r := ask(t, "GET", url); r.StatusCode != 404 {
		t.Error(r.Status)
	}
	upstream.DeleteRepository("a")
	if r := ask(t, "GET", upstream.URL()+"/v2/a/manifests/"+two.Manifest.Digest.String()); r.StatusCode != 404 {
		t.Error(r.Status)
	}
}

func TestRangesOfBlobs(t *testing.T) {
	upstream := upstreamtest.Start(t)
	blob := upstream.AddBlob("a", []byte("0123456789"))
	url := upstream.URL() + "/v2/a/blobs/" + blob.Digest.String()
	for header, test := range map[string]struct {
		status             int
		body, contentRange string
	}{
		"bytes=0-":      {206, "0123456789", "bytes 0-9/10"},
		"bytes=3-5":     {206, "345", "bytes 3-5/10"},
		"bytes=8-99":    {206, "89", "bytes 8-9/10"},
		"bytes=-2":      {206, "89", "bytes 8-9/10"},
		"bytes=0-1,3-4": {200, "0123456789", ""},
		"bytes=5-3":     {200, "0123456789", ""},
		"lines=1-2":     {200, "0123456789", ""},
	} {
		r := ask(t, "GET", url, "Range", header)
		want(t, r, test.status, []byte(test.body))
		if got := r.Header.Get("Content-Range"); got != test.contentRange {
			t.Errorf("%s: Content-Range is %q", header, got)
		}
	}
	if r := ask(t, "GET", url, "Range", "bytes=10-"); r.StatusCode != 416 || r.Header.Get("Content-Range") != "bytes */10" {
		t.Errorf("behind the end: %s, %s", r.Status, r.Header.Get("Content-Range"))
	}
	want(t, ask(t, "GET", url, "Range", "bytes=3-5", "If-Range", `"other"`), 200, blob.Content)
	if ranges := upstream.Requests().Ranges(); !slices.Contains(ranges, "bytes=3-5") {
		t.Errorf("the log has %q", ranges)
	}
}

func TestIndexNamesPlatforms(t *testing.T) {
	upstream := upstreamtest.Start(t)
	amd := upstream.AddImage("a", "", []byte("1"))
	arm := upstream.AddPlatformImage(imagespec.Platform{OS: "linux", Architecture: "arm64"}, "a", "", []byte("1"))
	if amd.Manifest.Digest == arm.Manifest.Digest {
		t.Fatal("two platforms have one image")
	}
	want(t, ask(t, "GET", upstream.URL()+"/v2/a/manifests/multi"), 404, ask(t, "GET", upstream.URL()+"/v2/a/manifests/none").body)
	upstream.AddIndex("a", "multi", amd, arm)
	r := ask(t, "GET", upstream.URL()+"/v2/a/manifests/multi")
	var index imagespec.Index
	if err := json.Unmarshal(r.body, &index); err != nil || len(index.Manifests) != 2 || index.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("%s: %s, %v", r.Status, r.body, err)
	}
}

func TestLatencyAndRate(t *testing.T) {
	upstream := upstreamtest.Start(t)
	blob := upstream.AddBlob("a", upstreamtest.Bytes(1, 2<<20))
	upstream.SetLatency(50 * time.Millisecond)
	upstream.SetRate(10 << 20)
	// Machines may be slow, never too fast.
	const least = 250*time.Millisecond - 10*time.Millisecond
	done := make(chan time.Duration)
	for range 8 {
		go func() {
			start := time.Now()
			want(t, ask(t, "GET", upstream.URL()+"/v2/a/blobs/"+blob.Digest.String()), 200, blob.Content)
			done <- time.Since(start)
		}()
	}
	for range 8 {
		took := <-done
		t.Logf("%v", took)
		if took < least || took > 20*least {
			t.Errorf("took %v, want 250ms", took)
		}
	}
}
