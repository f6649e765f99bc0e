package upstream

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

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
