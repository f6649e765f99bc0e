package upstream

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// spoil flips a bit of a blob's file.
func (s *site) spoil(blob upstreamtest.Blob) {
	s.t.Helper()
	hex := blob.Digest.Encoded()
	file := filepath.Join(s.dir, "blobs", "sha256", hex[:2], hex)
	content, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(file, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) verify(repair bool) (storage.Verified, error) {
	options := storage.VerifyOptions{}
	if repair {
		options.Repair = func(ctx context.Context, damage storage.Damage) error {
			return s.cache.Repair(ctx, Mapped{Upstream: damage.Upstream, Repository: damage.Repository, Remote: first}, damage.Digest)
		}
	}
	return s.registry.Verify(s.t.Context(), options)
}

func TestAFlippedBitOfACopyIsRepaired(t *testing.T) {
	s := newSite(t, setup{})
	blob := s.up().AddBlob(first, upstreamtest.Bytes(1, mega))
	s.wantGet(blob)
	s.settle()
	s.spoil(blob)
	if got, err := s.verify(false); !errors.Is(err, storage.ErrDamaged) || got.Damaged != 1 || got.Repaired != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if s.kept(first, blob.Digest) {
		t.Error("it is still served")
	}
	s.wantGet(blob) // fetched anew
	s.settle()
	s.spoil(blob)
	if got, err := s.verify(true); err != nil || got.Damaged != 1 || got.Repaired != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if !s.kept(first, blob.Digest) {
		t.Error("it is not there again")
	}
	asked := len(s.asked())
	s.wantGet(blob)
	if len(s.asked()) != asked {
		t.Error("it was fetched once more")
	}
	// Without its upstream it is not repaired, and not served.
	s.spoil(blob)
	undo := s.up().Fault(blobGet(0, 1000), upstreamtest.Refuse(http.StatusServiceUnavailable))
	if got, err := s.verify(true); !errors.Is(err, storage.ErrDamaged) || got.Repaired != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	undo()
	if s.kept(first, blob.Digest) {
		t.Error("it is still served")
	}
}

// TestAFlippedBitOfWhatIsPrivateTooIsRepaired has the upstream heal what was pushed here.
func TestAFlippedBitOfWhatIsPrivateTooIsRepaired(t *testing.T) {
	s := newSite(t, setup{})
	blob := s.up().AddBlob(first, upstreamtest.Bytes(1, mega))
	s.wantGet(blob)
	s.settle()
	s.push("own", blob)
	s.spoil(blob)
	if _, err := s.verify(false); !errors.Is(err, storage.ErrDamaged) {
		t.Error(err)
	}
	if _, err := s.registry.StatBlob(t.Context(), "own", blob.Digest); !errors.Is(err, storage.ErrBlobUnknown) {
		t.Errorf("what is private: %v", err)
	}
	if got, err := s.verify(true); err != nil || got.Repaired != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.registry.StatBlob(t.Context(), "own", blob.Digest); err != nil {
		t.Errorf("what is private: %v", err)
	}
	s.wantGet(blob)
}
