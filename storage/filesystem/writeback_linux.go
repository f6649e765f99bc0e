package filesystem

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback has the kernel begin to write a part of a file to the disk, so that
// the sync at the end of an upload has little left to wait for. It promises nothing, so
// that it fails does not matter.
func startWriteback(f File, offset, n int64) {
	if f, ok := f.(*os.File); ok {
		_ = unix.SyncFileRange(int(f.Fd()), offset, n, unix.SYNC_FILE_RANGE_WRITE)
	}
}
