package distribution_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
)

// brokenSource gives blobs that break off.
type brokenSource struct {
	*storage.Registry
	good, size int64
	err        error
}

func (s brokenSource) OpenBlob(context.Context, string, digest.Digest) (io.ReadSeekCloser, int64, error) {
	return &brokenBlob{Reader: bytes.NewReader(make([]byte, s.size)), source: s}, s.size, nil
}

type brokenBlob struct {
	*bytes.Reader
	source brokenSource
}

func (b *brokenBlob) Read(p []byte) (int, error) {
	at := b.Size() - int64(b.Len())
	if at >= b.source.good {
		return 0, b.source.err
	}
	return b.Reader.Read(p[:min(int64(len(p)), b.source.good-at)])
}

func (b *brokenBlob) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{b}) // not the reader's own, which knows no end
}

func (*brokenBlob) Close() error { return nil }

// TestContentThatBreaksOffNeverLooksWhole has blobs end early, with an error or without.
func TestContentThatBreaksOffNeverLooksWhole(t *testing.T) {
	const size = 1 << 20
	for _, overTLS := range []bool{false, true} { // that is HTTP/2
		for _, err := range []error{io.EOF, errors.New("broken")} {
			for _, good := range []int64{0, 100, size / 2, size - 1} {
				source := brokenSource{good: good, size: size, err: err}
				handler := &distribution.Handler{Log: slog.New(slog.DiscardHandler)}
				s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					target, err := distribution.ParsePath(r.URL.Path)
					if err != nil {
						t.Error(err)
					}
					handler.Serve(w, r, target, source, distribution.Everything)
				}))
				s.EnableHTTP2 = overTLS
				if overTLS {
					s.StartTLS()
				} else {
					s.Start()
				}
				for _, header := range []string{"", "bytes=0-", "bytes=50-", "bytes=-1", "bytes=-1000000", "bytes=0-1048575", "bytes=0-9,1048570-1048575"} {
					req, reqErr := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v2/a/blobs/"+digest.FromString("").String(), nil)
					if reqErr != nil {
						t.Fatal(reqErr)
					}
					req.Header.Set("Range", header)
					if whole, got := readWhole(s.Client(), req); whole {
						t.Errorf("%s after %d bytes, %q, tls %v: got %s, whole", err, good, header, overTLS, got)
					}
				}
				s.Close()
			}
		}
	}
}

// readWhole reports whether a client gets an answer that it believes to be all.
func readWhole(client *http.Client, req *http.Request) (whole bool, got string) {
	resp, err := client.Do(req)
	if err != nil {
		return false, ""
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if resp.ProtoMajor == 2 && errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // the stream ended well; not every client counts
	}
	return err == nil, fmt.Sprint(resp.Status, " and ", n, " bytes")
}
