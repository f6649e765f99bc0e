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
	ctx       context.Context
	source    blobSource
	total     int64
	hash      hash.Hash
	body      *BlobBody
	at        int64 // bytes that are hashed, and where the body stands
	pos       int64 // of the next Read
	fruitless int   // answers in a row that gave no byte
	first     int   // the URL that is asked next
	spoilt    error // what came is not the blob
}

// newStream returns a stream that goes on after what state has hashed.
func newStream(ctx context.Context, source blobSource, total int64, state storage.UploadState) *stream {
	source.size = total
	s := &stream{
		ctx:    ctx,
		source: source,
		total:  total,
		hash:   source.digest.Algorithm().Hash(),
		first:  source.transfers.firstURL(source.key()),
	}
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
func (s *stream) seek(pos int64) {
	if pos < s.at {
		s.Close()
		s.hash.Reset()
		s.at, s.spoilt = 0, nil
	}
	s.pos = pos
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
	if s.spoilt != nil {
		return 0, s.spoilt
	}
	n, err := s.receive(p[:min(int64(len(p)), max(1, s.total-1-s.at))])
	if err != nil {
		return 0, err
	}
	s.hash.Write(p[:n])
	s.at += int64(n)
	if s.at == s.total {
		if got := digest.NewDigest(s.source.digest.Algorithm(), s.hash); got != s.source.digest {
			s.spoilt = fmt.Errorf("%w: the %d bytes that arrived have digest %s", errSpoilt, s.at, got)
			s.source.transfers.mismatched(s.source, s.spoilt)
			return 0, s.spoilt
		}
	}
	return n, nil
}

// receive returns at least one byte, of whichever answer has it.
func (s *stream) receive(p []byte) (int, error) {
	for {
		n, err := s.read(p)
		if n > 0 {
			s.fruitless = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		s.Close()
		s.first++
		if s.fruitless++; s.fruitless == maxFruitless || s.ctx.Err() != nil || errors.Is(err, errSpoilt) {
			return 0, unexpected(err)
		}
		if err := backOff(s.ctx, s.fruitless-1); err != nil {
			return 0, err
		}
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
