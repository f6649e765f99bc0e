package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// blobSource is where a blob comes from: a [Client], and the name of a repository there.
type blobSource struct {
	transfers  *Transfers
	client     *Client
	upstream   string
	remote     string // the repository's name there
	repository string // and here
	digest     digest.Digest
	size       int64 // as a manifest says, or -1
	room       *Room
	meter      Meter
}

func (s blobSource) key() blobKey { return blobKey{s.upstream, s.digest} }

// get asks for the bytes from offset on, of the URL with number first or one that follows.
func (s blobSource) get(ctx context.Context, offset int64, first int) (*BlobBody, error) {
	body, err := s.client.Blob(ctx, s.remote, s.digest, offset, first, s.size)
	if offset > 0 && errors.Is(err, ErrInvalid) {
		// Some refuse any range, and all refuse one behind the end.
		body, err = s.client.Blob(ctx, s.remote, s.digest, 0, first, s.size)
	}
	if err != nil {
		return nil, err
	}
	if err := s.skipTo(offset, body); err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

// skipTo reads what comes before offset of an upstream that does not start there.
func (s blobSource) skipTo(offset int64, body *BlobBody) error {
	if s.size >= 0 && body.Size >= 0 && body.Size != s.size {
		return fmt.Errorf("%w: %s says that %s has %d bytes, its manifest %d", ErrInvalid, s.upstream, s.digest, body.Size, s.size)
	}
	if body.Size >= 0 && offset > body.Size {
		return fmt.Errorf("%w: %s has %d bytes, %d have arrived", errSpoilt, s.digest, body.Size, offset)
	}
	skip := offset - body.Offset
	if skip <= 0 {
		return nil
	}
	n, err := io.CopyN(io.Discard, body, skip)
	s.meter.received(n)
	if err == io.EOF {
		return fmt.Errorf("%w: %s ended after %d bytes of %s, of which %d had arrived", ErrUnavailable, s.upstream, n, s.digest, offset)
	}
	return err
}
