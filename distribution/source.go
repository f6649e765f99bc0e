package distribution

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// Source is what reads are answered from. [storage.Registry] is one, and tells what its
// methods do; another may first fetch from elsewhere what is missing. Errors are those
// of package storage, or a [Refusal].
type Source interface {
	Manifest(ctx context.Context, repository string, ref storage.Reference) (*storage.Manifest, error)
	StatBlob(ctx context.Context, repository string, d digest.Digest) (int64, error)
	OpenBlob(ctx context.Context, repository string, d digest.Digest) (io.ReadSeekCloser, int64, error)
	Tags(ctx context.Context, repository, last string, n int) ([]string, error)
	Referrers(ctx context.Context, repository string, subject digest.Digest, artifactType string, last digest.Digest, n int) ([]imagespec.Descriptor, error)
}

// Interface guard
var _ Source = (*storage.Registry)(nil)
