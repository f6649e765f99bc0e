//go:build !windows

package filesystem

import (
	"errors"
	"os"
)

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
