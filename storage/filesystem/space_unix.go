//go:build unix

package filesystem

import (
	"golang.org/x/sys/unix"

	"github.com/eblume/caddy-registry/storage"
)

// Space implements [storage.SpaceReporter].
func (s *Store) Space() (storage.Space, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(s.dir, &stat); err != nil {
		return storage.Space{}, err
	}
	unit := int64(stat.Bsize)
	return storage.Space{Free: int64(stat.Bavail) * unit, Total: int64(stat.Blocks) * unit}, nil
}
