package faultdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
)

var registered atomic.Int64

// VFS makes the disk SQLite's for the rest of a test, and returns the name of the
// virtual file system to ask for.
func (d *Disk) VFS(t testing.TB) string {
	name := fmt.Sprintf("faultdisk%d", registered.Add(1))
	vfs.Register(name, &fileSystem{disk: d, shared: t.TempDir()})
	t.Cleanup(func() { vfs.Unregister(name) })
	return name
}

// fileSystem is what SQLite sees of a disk.
type fileSystem struct {
	disk *Disk
	// shared is a folder of the operating system's for the index of the write-ahead log,
	// which connections share as memory. It is made anew after a crash, so it need not
	// suffer one.
	shared string
}

func (s *fileSystem) FullPathname(name string) (string, error) { return name, nil }

func (s *fileSystem) Open(name string, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	if name == "" {
		return new(vfsutil.SliceFile), flags, nil // a temporary file
	}
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	n, err := s.disk.open(name, flags&vfs.OPEN_CREATE != 0)
	if err != nil {
		return nil, flags, vfs.SystemError(err, sqlite3.CANTOPEN)
	}
	return &databaseFile{
		disk:   s.disk,
		node:   n,
		folder: filepath.Dir(name),
		shared: vfs.NewSharedMemory(filepath.Join(s.shared, filepath.Base(name)+"-shm"), flags),
	}, flags, nil
}

func (s *fileSystem) Delete(name string, syncDir bool) error {
	s.disk.mu.Lock()
	err := s.disk.remove(name)
	s.disk.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) {
		return vfs.SystemError(err, sqlite3.IOERR_DELETE_NOENT)
	}
	if err == nil && syncDir {
		err = s.disk.SyncDir(filepath.Dir(name))
	}
	return err
}

func (s *fileSystem) Access(name string, _ vfs.AccessFlag) (bool, error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	_, n, err := s.disk.find(name)
	return err == nil && n != nil, nil
}

// databaseFile is a file that SQLite has open.
type databaseFile struct {
	disk   *Disk
	node   *node
	folder string
	shared vfs.SharedMemory
	lock   vfs.LockLevel
}

func (f *databaseFile) SharedMemory() vfs.SharedMemory { return f.shared }

func (f *databaseFile) Close() error {
	if f.shared != nil {
		f.shared.Close()
	}
	return f.Unlock(vfs.LOCK_NONE)
}

func (f *databaseFile) ReadAt(p []byte, offset int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step(read); err != nil {
		return 0, err
	}
	n := copy(p, f.node.content[min(offset, int64(len(f.node.content))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *databaseFile) WriteAt(p []byte, offset int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	err := f.disk.step(grow)
	switch {
	case errors.Is(err, ErrPowerOff):
		return 0, err
	case errors.Is(err, syscall.ENOSPC):
		err = vfs.SystemError(err, sqlite3.FULL)
	}
	if err != nil {
		p = p[:len(p)/2]
	}
	f.node.write(write{offset: offset, bytes: p})
	return len(p), err
}

func (f *databaseFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step(change); err != nil {
		return err
	}
	f.node.write(write{offset: size, truncate: true})
	return nil
}

// Sync makes the name durable with the bytes, as SQLite does for its journals. A full
// disk does not fail it, but the write before: SQLite tells what it means only there.
func (f *databaseFile) Sync(vfs.SyncFlag) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err := f.disk.step(change); err != nil {
		f.node.giveUp()
		return err
	}
	if f.disk.lies.DatabaseSync {
		return nil
	}
	f.node.sync()
	if _, folder, err := f.disk.find(f.folder); err == nil && folder != nil {
		f.disk.syncDir(folder)
	}
	return nil
}

func (f *databaseFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.node.content)), f.disk.step(read)
}

func (f *databaseFile) SectorSize() int { return pageSize }

func (f *databaseFile) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return vfs.IOCAP_POWERSAFE_OVERWRITE | vfs.IOCAP_SUBPAGE_READ
}

// locks are those of one file, between the connections of this process.
type locks struct {
	shared  int
	writing *databaseFile // has a reserved or higher lock
	pending bool          // it waits for the shared ones to go
}

func (f *databaseFile) LockState() vfs.LockLevel { return f.lock }

func (f *databaseFile) Lock(level vfs.LockLevel) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.lock >= level {
		return nil
	}
	l := &f.node.locks
	switch level {
	case vfs.LOCK_SHARED:
		if l.pending {
			return sqlite3.BUSY
		}
		l.shared++
	case vfs.LOCK_RESERVED:
		if l.writing != nil {
			return sqlite3.BUSY
		}
		l.writing = f
	case vfs.LOCK_EXCLUSIVE:
		if l.writing != nil && l.writing != f {
			return sqlite3.BUSY
		}
		l.writing, l.pending = f, true
		if l.shared > 1 {
			f.lock = vfs.LOCK_PENDING
			return sqlite3.BUSY
		}
	}
	f.lock = level
	return nil
}

func (f *databaseFile) Unlock(level vfs.LockLevel) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.lock <= level {
		return nil
	}
	l := &f.node.locks
	if l.writing == f {
		l.writing, l.pending = nil, false
	}
	if level == vfs.LOCK_NONE {
		l.shared--
	}
	f.lock = level
	return nil
}

func (f *databaseFile) CheckReservedLock() (bool, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return f.node.locks.writing != nil, nil
}

// Interface guards
var (
	_ vfs.VFS              = (*fileSystem)(nil)
	_ vfs.FileSharedMemory = (*databaseFile)(nil)
	_ vfs.FileLockState    = (*databaseFile)(nil)
)
