package caddymodule

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

// source is a view of an upstream's repository whose errors are told as the distribution
// API tells them.
type source struct{ view *upstream.View }

func (s source) Manifest(ctx context.Context, repository string, ref storage.Reference) (*storage.Manifest, error) {
	m, err := s.view.Manifest(ctx, repository, ref)
	return m, refusal(err)
}

func (s source) StatBlob(ctx context.Context, repository string, d digest.Digest) (int64, error) {
	size, err := s.view.StatBlob(ctx, repository, d)
	return size, refusal(err)
}

func (s source) OpenBlob(ctx context.Context, repository string, d digest.Digest) (io.ReadSeekCloser, int64, error) {
	blob, size, err := s.view.OpenBlob(ctx, repository, d)
	return blob, size, refusal(err)
}

func (s source) Tags(ctx context.Context, repository, last string, n int) ([]string, error) {
	tags, err := s.view.Tags(ctx, repository, last, n)
	return tags, refusal(err)
}

func (s source) Referrers(ctx context.Context, repository string, subject digest.Digest, artifactType string, last digest.Digest, n int) ([]imagespec.Descriptor, error) {
	found, err := s.view.Referrers(ctx, repository, subject, artifactType, last, n)
	return found, refusal(err)
}

var errOnlyMirror = &distribution.Refusal{
	Status: http.StatusNotFound,
	Code:   "NAME_UNKNOWN",
	Err:    errors.New("this is a mirror: it has no repositories of its own, and takes no push"),
}

// refusals tell how an upstream's errors are told. None is blurred into another.
var refusals = []distribution.Refusal{
	{Err: upstream.ErrNotAllowed, Status: http.StatusForbidden, Code: "DENIED"},
	{Err: upstream.ErrDenied, Status: http.StatusForbidden, Code: "DENIED"},
	{Err: upstream.ErrRateLimited, Status: http.StatusTooManyRequests, Code: "TOOMANYREQUESTS"},
	{Err: upstream.ErrTimeout, Status: http.StatusGatewayTimeout, Code: "UNAVAILABLE"},
	{Err: upstream.ErrUnavailable, Status: http.StatusBadGateway, Code: "UNAVAILABLE"},
	{Err: upstream.ErrInvalid, Status: http.StatusBadGateway, Code: "UNAVAILABLE"},
	{Err: upstream.ErrTakesNoPush, Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED"},
}

// refusal returns err as a client is to be told, if it is an upstream's.
func refusal(err error) error {
	if err == nil || errors.Is(err, storage.ErrManifestUnknown) || errors.Is(err, storage.ErrBlobUnknown) || errors.Is(err, storage.ErrNameUnknown) {
		return err
	}
	for _, known := range refusals {
		if !errors.Is(err, known.Err) {
			continue
		}
		told := &distribution.Refusal{Status: known.Status, Code: known.Code, Err: err}
		var limited *upstream.RateLimitError
		if errors.As(err, &limited) {
			told.RetryAfter = limited.RetryAfter
		}
		return told
	}
	return err
}

// Interface guard
var _ distribution.Source = source{}
