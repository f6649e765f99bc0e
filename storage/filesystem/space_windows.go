package filesystem

import (
	"golang.org/x/sys/windows"

	"github.com/eblume/caddy-registry/storage"
)

// Space implements [storage.SpaceReporter].
func (s *Store) Space() (storage.Space, error) {
	dir, err := windows.UTF16PtrFromString(s.dir)
	if err != nil {
		return storage.Space{}, err
	}
	var free, total uint64
	if err := windows.GetDiskFreeSpaceEx(dir, &free, &total, nil); err != nil {
		return storage.Space{}, err
	}
	return storage.Space{Free: int64(free), Total: int64(total)}, nil
}
