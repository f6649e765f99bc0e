package upstream

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

const stallLimit = 15 * time.Second // the longest wait for the next byte of a body

func contentCoding(resp *http.Response) string {
	switch coding := strings.ToLower(resp.Header.Get("Content-Encoding")); coding {
	case "identity":
		return ""
	case "x-gzip":
		return "gzip"
	default:
		return coding
	}
}

// decoded returns the body, which some servers compress although they were asked not to.
func (e *endpoint) decoded(ctx context.Context, resp *http.Response) (io.Reader, error) {
	switch coding := contentCoding(resp); coding {
	case "":
		return resp.Body, nil
	case "gzip":
		plain, err := gzip.NewReader(resp.Body)
		if err != nil {
			return nil, e.explain(ctx, err)
		}
		return plain, nil
	default:
		return nil, e.fail(ErrInvalid, "%s sent Content-Encoding %q, which was not asked for", resp.Request.URL.Host, coding)
	}
}

// decodedBody is a body without its encoding.
type decodedBody struct {
	endpoint *endpoint
	ctx      context.Context
	plain    io.Reader
	io.Closer
}

func (b decodedBody) Read(p []byte) (int, error) {
	n, err := b.plain.Read(p)
	if err != nil && err != io.EOF {
		err = b.endpoint.explain(b.ctx, err)
	}
	return n, err
}

// watchedBody is the body of an answer. A read ends when no byte has come for long, and
// errors of reads are this package's.
type watchedBody struct {
	io.ReadCloser
	endpoint *endpoint
	host     string
	ctx      context.Context // of the request
	cancel   context.CancelFunc
	timer    *time.Timer
	stalled  atomic.Bool
}

func (e *endpoint) watch(req *http.Request, cancel context.CancelFunc, body io.ReadCloser) *watchedBody {
	b := &watchedBody{ReadCloser: body, endpoint: e, host: req.URL.Host, ctx: req.Context(), cancel: cancel}
	b.timer = time.AfterFunc(e.stall, func() {
		b.stalled.Store(true)
		cancel()
	})
	b.timer.Stop() // it runs during reads only: whoever reads may take their time between them
	return b
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.endpoint.stall)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case b.ctx.Err() != nil:
		return n, b.ctx.Err()
	case b.stalled.Load():
		return n, b.endpoint.fail(ErrTimeout, "%s sent nothing for %v in the middle of an answer", b.host, b.endpoint.stall)
	}
	return n, b.endpoint.fail(ErrUnavailable, "%s broke off in the middle of an answer: %v", b.host, err)
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// Interface guards
var (
	_ io.ReadCloser = decodedBody{}
	_ io.ReadCloser = (*watchedBody)(nil)
)
