package upstream

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// stream is a blob, or its end, that passes through without being kept, for one client.
// It is hashed on the way, and its last byte is given only if the digest is right.
type stream struct {
	ctx    context.Context
	source blobSource
	total  int64
	hash   hash.Hash
	body   *BlobBody
	at     int64 // bytes that are hashed, and where the body stands
	pos    int64 // of the next Read
	failed int   // answers in a row that gave no byte
	first  int   // the URL that is asked next
}

// newStream returns a stream that goes on after what state has hashed.
func newStream(ctx context.Context, source blobSource, total int64, state storage.UploadState) *stream {
	s := &stream{ctx: ctx, source: source, total: total, hash: source.digest.Algorithm().Hash()}
	if state.Size > 0 {
		if err := s.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state.Hash); err == nil {
			s.at = state.Size
		}
	}
	s.pos = s.at
	return s
}

// seek moves to a position. What was passed over is read all the same, since without
// it the digest cannot be known.
func (s *stream) seek(pos int64) error {
	if pos < s.at {
		s.Close()
		s.hash.Reset()
		s.at = 0
	}
	s.pos = pos
	return nil
}

// Read implements [io.Reader].
func (s *stream) Read(p []byte) (int, error) {
	if s.pos >= s.total {
		return 0, io.EOF
	}
	for {
		n, err := s.next(p)
		if err != nil {
			return 0, err
		}
		// p has the n bytes before s.at.
		if skipped := s.pos - (s.at - int64(n)); skipped < int64(n) {
			n = copy(p, p[max(0, skipped):n])
			s.pos += int64(n)
			return n, nil
		}
	}
}

// next reads on and hashes what it returns, the last byte alone, and only if all is right.
func (s *stream) next(p []byte) (int, error) {
	limit := s.total - 1 - s.at
	if limit == 0 {
		limit = 1
	}
	for {
		n, err := s.read(p[:min(int64(len(p)), limit)])
		if n == 0 && err != nil {
			if s.failed++; s.failed > maxFruitless || s.ctx.Err() != nil || errors.Is(err, ErrInvalid) {
				return 0, err
			}
			s.first++
			s.Close()
			continue
		}
		s.failed = 0
		s.hash.Write(p[:n])
		s.at += int64(n)
		if s.at == s.total && digest.NewDigest(s.source.digest.Algorithm(), s.hash) != s.source.digest {
			s.source.meter.mismatch()
			return 0, fmt.Errorf("%w: what %s sent is not %s", ErrInvalid, s.source.upstream, s.source.digest)
		}
		return n, nil
	}
}

func (s *stream) read(p []byte) (int, error) {
	if s.body == nil {
		body, err := s.source.get(s.ctx, s.at, s.first)
		if err != nil {
			return 0, err
		}
		s.body = body
	}
	n, err := s.body.Read(p)
	s.source.meter.received(int64(n))
	return n, err
}

// Close ends the connection.
func (s *stream) Close() error {
	if s.body == nil {
		return nil
	}
	err := s.body.Close()
	s.body = nil
	return err
}

// wholeStream is a stream from the first byte on, which can be sought.
type wholeStream struct{ *stream }

// Seek implements [io.Seeker].
func (s wholeStream) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.pos
	case io.SeekEnd:
		offset += s.total
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of a blob")
	}
	return offset, s.seek(offset)
}
