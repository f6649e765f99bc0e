package filesystem

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/eblume/caddy-registry/storage"
)

// Quarantine implements [storage.Quarantiner]: the file goes to
// quarantine/<algorithm>/<hex>, in place of one that is there.
func (s *Store) Quarantine(_ context.Context, key storage.BlobKey) (string, error) {
	d := key.Digest
	folder := filepath.Join(s.dir, "quarantine", d.Algorithm().String())
	if err := s.disk.MkdirAll(folder); err != nil {
		return "", diskError(err)
	}
	place := filepath.Join(folder, d.Encoded())
	err := s.disk.Rename(s.blobPath(d), place)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return place, err
}

// Interface guard
var _ storage.Quarantiner = (*Store)(nil)
