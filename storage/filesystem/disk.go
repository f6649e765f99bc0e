package filesystem

import (
	"io"
	"io/fs"
	"os"
)

// Disk is the part of an operating system's file calls that a [Store] makes. Tests put
// one in its place that fails, or that forgets what was not synced.
type Disk interface {
	// OpenFile is [os.OpenFile] with permission 0600.
	OpenFile(name string, flag int) (File, error)
	// Rename is [os.Rename]: atomic, but durable only after SyncDir.
	Rename(old, new string) error
	// Remove is [os.Remove].
	Remove(name string) error
	// MkdirAll is [os.MkdirAll] with permission 0700.
	MkdirAll(name string) error
	// ReadDir is [os.ReadDir].
	ReadDir(name string) ([]fs.DirEntry, error)
	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error
}

// File is an open file. The operating system's Disk gives an [*os.File] itself, which
// the kernel copies to a connection without the bytes passing through the process.
type File interface {
	io.ReadWriteSeeker
	io.Closer
	Stat() (fs.FileInfo, error)
	Sync() error
	Truncate(size int64) error
}

// osDisk is the operating system.
type osDisk struct{}

func (osDisk) OpenFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err // not f, which is a nil that is not equal to nil
	}
	return f, nil
}

func (osDisk) Rename(old, new string) error               { return os.Rename(old, new) }
func (osDisk) Remove(name string) error                   { return os.Remove(name) }
func (osDisk) MkdirAll(name string) error                 { return os.MkdirAll(name, 0o700) }
func (osDisk) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (osDisk) SyncDir(name string) error                  { return syncDir(name) }
