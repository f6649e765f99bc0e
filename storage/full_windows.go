package storage

import (
	"errors"

	"golang.org/x/sys/windows"
)

// IsFull tells a disk, or the user's share of it, that has no room.
func IsFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}
