package filesystem

import (
	"fmt"
	"os"

	"github.com/eblume/caddy-registry/storage"
)

// Link implements [storage.Linker] by a hard link.
func (s *Store) Link(id, file string) error {
	if err := os.Link(file, s.uploadPath(id)); err != nil {
		return fmt.Errorf("%w: %w", storage.ErrNotLinked, err)
	}
	// A writer opens what it goes on with for writing too.
	f, err := os.OpenFile(s.uploadPath(id), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", storage.ErrNotLinked, unlinked(s, id, err))
	}
	return f.Close()
}

func unlinked(s *Store, id string, err error) error {
	if removeErr := os.Remove(s.uploadPath(id)); removeErr != nil {
		return removeErr
	}
	return err
}

// Interface guard
var _ storage.Linker = (*Store)(nil)
