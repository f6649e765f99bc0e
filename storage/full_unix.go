//go:build !windows

package storage

import (
	"errors"
	"syscall"
)

// IsFull tells a disk, or the user's share of it, that has no room.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
