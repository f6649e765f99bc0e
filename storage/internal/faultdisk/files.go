package faultdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/eblume/caddy-registry/storage/filesystem"
)

// OpenFile implements [filesystem.Disk].
func (d *Disk) OpenFile(name string, flag int) (filesystem.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.open(name, flag&os.O_CREATE != 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &file{disk: d, node: n, name: name}, nil
}

// open returns a file, which it makes if that is wanted.
func (d *Disk) open(name string, create bool) (*node, error) {
	at, n, err := d.find(name)
	if err != nil {
		return nil, err
	}
	switch {
	case n != nil && n.folder:
		return nil, errors.New("is a folder")
	case n != nil:
		return n, d.step(read)
	case !create:
		return nil, fs.ErrNotExist
	}
	if err := d.step(grow); err != nil {
		return nil, err
	}
	n = new(node)
	d.rename(nameChange{node: n, to: at})
	return n, nil
}

// Rename implements [filesystem.Disk].
func (d *Disk) Rename(old, new string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(grow); err != nil {
		return &os.LinkError{Op: "rename", Old: old, New: new, Err: err}
	}
	from, n, err := d.find(old)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	to, _, toErr := d.find(new)
	if err := errors.Join(err, toErr); err != nil {
		return &os.LinkError{Op: "rename", Old: old, New: new, Err: err}
	}
	d.rename(nameChange{node: n, from: from, to: to})
	return nil
}

// Remove implements [filesystem.Disk].
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.remove(name); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func (d *Disk) remove(name string) error {
	if err := d.step(change); err != nil {
		return err
	}
	at, n, err := d.find(name)
	if err != nil {
		return err
	}
	if n == nil {
		return fs.ErrNotExist
	}
	d.rename(nameChange{node: n, from: at})
	return nil
}

// MkdirAll implements [filesystem.Disk].
func (d *Disk) MkdirAll(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := "/"
	for _, part := range strings.Split(path.Clean("/" + filepath.ToSlash(name))[1:], "/") {
		at = path.Join(at, part)
		where, n, err := d.find(at)
		if err != nil || n != nil && !n.folder {
			return &fs.PathError{Op: "mkdir", Path: name, Err: fmt.Errorf("not a folder: %w", err)}
		}
		if n != nil {
			continue
		}
		if err := d.step(grow); err != nil {
			return &fs.PathError{Op: "mkdir", Path: name, Err: err}
		}
		d.rename(nameChange{node: newFolder(), to: where})
	}
	return nil
}

// ReadDir implements [filesystem.Disk].
func (d *Disk) ReadDir(name string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(read); err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	_, n, err := d.find(name)
	if err == nil && (n == nil || !n.folder) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	var entries []fs.DirEntry
	for name, child := range n.entries {
		entries = append(entries, fs.FileInfoToDirEntry(info{name, child.folder, int64(len(child.content))}))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// SyncDir implements [filesystem.Disk].
func (d *Disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(grow); err != nil {
		return &fs.PathError{Op: "sync", Path: name, Err: err}
	}
	_, n, err := d.find(name)
	if err != nil || n == nil {
		return &fs.PathError{Op: "sync", Path: name, Err: fs.ErrNotExist}
	}
	if !d.lies.SyncDir {
		d.syncDir(n)
	}
	return nil
}

// file is an open file.
type file struct {
	disk   *Disk
	node   *node
	name   string
	offset int64
	closed bool
}

// begin locks the disk for an operation, which the caller must end unless it fails.
func (f *file) begin(o operation) (end func(), err error) {
	f.disk.mu.Lock()
	if f.closed {
		err = fs.ErrClosed
	} else {
		err = f.disk.step(o)
	}
	if err != nil && o != grow {
		f.disk.mu.Unlock()
		return nil, &fs.PathError{Op: "access", Path: f.name, Err: err}
	}
	return f.disk.mu.Unlock, err
}

func (f *file) Read(p []byte) (int, error) {
	end, err := f.begin(read)
	if err != nil {
		return 0, err
	}
	defer end()
	if f.offset >= int64(len(f.node.content)) && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, f.node.content[min(f.offset, int64(len(f.node.content))):])
	f.offset += int64(n)
	return n, nil
}

// Write writes half when there is no room for all.
func (f *file) Write(p []byte) (int, error) {
	end, err := f.begin(grow)
	defer end()
	if err != nil {
		if errors.Is(err, fs.ErrClosed) || errors.Is(err, ErrPowerOff) {
			return 0, err
		}
		p = p[:len(p)/2]
	}
	f.node.write(write{offset: f.offset, bytes: p})
	f.offset += int64(len(p))
	return len(p), err
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		offset += int64(len(f.node.content))
	}
	f.offset = offset
	return offset, nil
}

func (f *file) Stat() (fs.FileInfo, error) {
	end, err := f.begin(read)
	if err != nil {
		return nil, err
	}
	defer end()
	return info{filepath.Base(f.name), false, int64(len(f.node.content))}, nil
}

func (f *file) Sync() error {
	end, err := f.begin(grow)
	defer end()
	switch {
	case err != nil:
		f.node.giveUp()
	case !f.disk.lies.Sync:
		f.node.sync()
	}
	return err
}

func (f *file) Truncate(size int64) error {
	end, err := f.begin(change)
	if err != nil {
		return err
	}
	defer end()
	f.node.write(write{offset: size, truncate: true})
	return nil
}

func (f *file) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}

// info tells of a file or folder what a [filesystem.Store] asks.
type info struct {
	name   string
	folder bool
	size   int64
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) IsDir() bool        { return i.folder }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) Sys() any           { return nil }

func (i info) Mode() fs.FileMode {
	if i.folder {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
