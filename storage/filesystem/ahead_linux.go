package filesystem

import (
	"os"

	"golang.org/x/sys/unix"
)

// Neither of these promises anything, so that one fails does not matter.

// startWriteback has the kernel begin to write a part of a file to the disk, so that
// the sync at the end of an upload has little left to wait for.
func startWriteback(f File, offset, n int64) {
	if f, ok := f.(*os.File); ok {
		_ = unix.SyncFileRange(int(f.Fd()), offset, n, unix.SYNC_FILE_RANGE_WRITE)
	}
}

// reserve has the file system find room for a part of a file at once, which costs half
// as much as finding it for each write. The file's length stays.
func reserve(f File, offset, n int64) {
	if f, ok := f.(*os.File); ok {
		_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, offset, n)
	}
}

// release gives back what is reserved past a file's end, which is at size.
func release(f File, size int64) {
	if f, ok := f.(*os.File); ok {
		_ = f.Truncate(size)
	}
}
