package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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
