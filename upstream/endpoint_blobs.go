package upstream

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

func (e *endpoint) statBlob(ctx context.Context, name string, d digest.Digest) (size int64, err error) {
	err = e.ask(ctx, http.MethodHead, name, e.url(name, "blobs/"+d.String(), nil), nil, func(resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		if size = resp.ContentLength; contentCoding(resp) != "" {
			size = -1
		}
		return nil
	})
	return size, err
}

func (e *endpoint) blob(ctx context.Context, name string, d digest.Digest, offset, size int64) (b *BlobBody, err error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	err = e.ask(ctx, http.MethodGet, name, e.url(name, "blobs/"+d.String(), nil), header, func(resp *http.Response) error {
		b, err = e.blobBody(ctx, resp, offset, size)
		if b != nil {
			resp.Body = http.NoBody
		}
		return err
	})
	if b == nil && err == nil {
		return e.blob(ctx, name, d, 0, size)
	}
	return b, err
}

// blobBody returns the body of an answer, or nil if the blob must be asked for from its
// beginning.
func (e *endpoint) blobBody(ctx context.Context, resp *http.Response, offset, size int64) (*BlobBody, error) {
	host, total := resp.Request.URL.Host, resp.ContentLength
	switch {
	case resp.StatusCode == http.StatusOK:
		offset = 0
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		start, of, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || start != offset {
			return nil, e.fail(ErrInvalid, "%s was asked for the bytes from %d on and sent Content-Range %q", host, offset, resp.Header.Get("Content-Range"))
		}
		total = of
	default:
		return nil, e.refused(resp)
	}
	// Layers are often gzip files, and some servers say that of them by Content-Encoding.
	// Those have the right size as they are.
	if contentCoding(resp) != "" && size >= 0 && total != size {
		if offset > 0 {
			return nil, nil // the range is one of the encoded bytes
		}
		plain, err := e.decoded(ctx, resp)
		if err != nil {
			return nil, err
		}
		return &BlobBody{decodedBody{e, ctx, plain, resp.Body}, -1, 0, e.index}, nil
	}
	if size >= 0 && total >= 0 && total != size {
		return nil, e.fail(ErrInvalid, "%s has %d bytes for a blob that has %d", host, total, size)
	}
	return &BlobBody{resp.Body, total, offset, e.index}, nil
}

// parseContentRange reads "bytes 5-9/10" (RFC 9110, section 14.4). total is -1 for "*".
func parseContentRange(value string) (start, total int64, ok bool) {
	value, ok = strings.CutPrefix(value, "bytes ")
	span, of, found := strings.Cut(value, "/")
	from, to, separated := strings.Cut(span, "-")
	start, startErr := strconv.ParseInt(from, 10, 64)
	end, endErr := strconv.ParseInt(to, 10, 64)
	if !ok || !found || !separated || startErr != nil || endErr != nil || start < 0 || end < start {
		return 0, 0, false
	}
	if of == "*" {
		return start, -1, true
	}
	total, err := strconv.ParseInt(of, 10, 64)
	return start, total, err == nil && end < total
}
