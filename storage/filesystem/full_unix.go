//go:build !windows

package filesystem

import (
	"errors"
	"syscall"
)

// isFull tells a disk, or the user's share of it, that has no room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
