// Package filesystem keeps blobs as plain files: blobs/<algorithm>/<2 hex>/<hex>, and
// uploads/<id> while they arrive. A file is hashed as it is written, synced, renamed to
// its digest and its folder synced, in this order, so that a name under blobs never
// stands for other bytes, not even after a loss of power.
package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// Store is a [storage.BlobStore] in a folder.
type Store struct {
	dir    string
	disk   Disk
	unlock func() error

	folders sync.Map // string → true: those under blobs that are known to be durable
}

// Open returns the store in dir, which is made if need be, or [storage.ErrInUse].
func Open(ctx context.Context, dir string) (*Store, error) {
	if err := makeDirectory(dir); err != nil {
		return nil, err
	}
	unlock, err := storage.Lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	s, err := OpenDisk(dir, osDisk{})
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	s.unlock = unlock
	return s, nil
}

// makeDirectory makes dir, and what leads to it, durably.
func makeDirectory(dir string) error {
	err := os.Mkdir(dir, 0o700)
	parent := filepath.Dir(dir)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeDirectory(parent); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		return syncDir(parent)
	}
	// A file in its place is found out by what comes next.
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// OpenDisk is Open on a given disk, whose owner is the caller.
func OpenDisk(dir string, disk Disk) (*Store, error) {
	s := &Store{dir: dir, disk: disk, unlock: func() error { return nil }}
	blobs := filepath.Join(dir, "blobs")
	for _, folder := range []string{
		filepath.Join(dir, "uploads"),
		filepath.Join(blobs, digest.SHA256.String()),
		filepath.Join(blobs, digest.SHA512.String()),
	} {
		if err := disk.MkdirAll(folder); err != nil {
			return nil, err
		}
	}
	return s, errors.Join(disk.SyncDir(blobs), disk.SyncDir(dir))
}

// makeFolder makes the folder of a blob, durably, unless this process did so before.
// That it is there is not enough: whoever made it may not have synced it.
func (s *Store) makeFolder(folder string) error {
	if _, ok := s.folders.Load(folder); ok {
		return nil
	}
	if err := s.disk.MkdirAll(folder); err != nil {
		return err
	}
	if err := s.disk.SyncDir(filepath.Dir(folder)); err != nil {
		return err
	}
	s.folders.Store(folder, true)
	return nil
}

// SyncDir makes the names in a folder durable.
func SyncDir(name string) error { return syncDir(name) }

// Close lets another process open the store.
func (s *Store) Close() error { return s.unlock() }

func (s *Store) blobPath(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(s.dir, "blobs", d.Algorithm().String(), hex[:2], hex)
}

func (s *Store) uploadPath(id string) string {
	return filepath.Join(s.dir, "uploads", id)
}

// Open implements [storage.BlobStore]; what it returns is an [*os.File].
func (s *Store) Open(_ context.Context, key storage.BlobKey) (io.ReadSeekCloser, error) {
	f, err := s.disk.OpenFile(s.blobPath(key.Digest), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no file has the bytes of %s", storage.ErrBlobUnknown, key.Digest)
	}
	return f, err
}

// Delete implements [storage.BlobStore].
func (s *Store) Delete(_ context.Context, key storage.BlobKey) error {
	return ignoreNotExist(s.disk.Remove(s.blobPath(key.Digest)))
}

// Blobs implements [storage.BlobStore]. Other files that may lie around are passed over.
func (s *Store) Blobs(ctx context.Context) iter.Seq2[storage.BlobKey, error] {
	return func(yield func(storage.BlobKey, error) bool) {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			folder := filepath.Join(s.dir, "blobs", algorithm.String())
			parts, err := s.disk.ReadDir(folder)
			if err != nil {
				yield(storage.BlobKey{}, err)
				return
			}
			for _, part := range parts {
				if ctx.Err() != nil {
					yield(storage.BlobKey{}, ctx.Err())
					return
				}
				if part.IsDir() && !s.yieldBlobs(algorithm, filepath.Join(folder, part.Name()), yield) {
					return
				}
			}
		}
	}
}

// yieldBlobs yields the blobs in one folder and returns whether there shall be more.
func (s *Store) yieldBlobs(algorithm digest.Algorithm, folder string, yield func(storage.BlobKey, error) bool) bool {
	files, err := s.disk.ReadDir(folder)
	if err != nil {
		yield(storage.BlobKey{}, err)
		return false
	}
	for _, file := range files {
		d := digest.NewDigestFromEncoded(algorithm, file.Name())
		if d.Validate() != nil || filepath.Base(folder) != file.Name()[:2] {
			continue
		}
		if !yield(storage.BlobKey{Digest: d}, nil) {
			return false
		}
	}
	return true
}

// OpenUpload implements [storage.BlobStore]; what it returns is an [*os.File].
func (s *Store) OpenUpload(_ context.Context, id string) (io.ReadSeekCloser, error) {
	f, err := s.disk.OpenFile(s.uploadPath(id), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no file has its bytes", storage.ErrUploadUnknown)
	}
	return f, err
}

// Discard implements [storage.BlobStore].
func (s *Store) Discard(_ context.Context, id string) error {
	return ignoreNotExist(s.disk.Remove(s.uploadPath(id)))
}

// Uploads implements [storage.BlobStore].
func (s *Store) Uploads(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		entries, err := s.disk.ReadDir(filepath.Join(s.dir, "uploads"))
		if err != nil {
			yield("", err)
			return
		}
		for _, entry := range entries {
			if !yield(entry.Name(), nil) {
				return
			}
		}
	}
}

// Writer implements [storage.BlobStore].
func (s *Store) Writer(_ context.Context, id string, state storage.UploadState) (storage.BlobWriter, error) {
	flag := os.O_RDWR
	if state.Size == 0 {
		flag |= os.O_CREATE
	}
	f, err := s.disk.OpenFile(s.uploadPath(id), flag)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: its bytes are gone, begin a new one", storage.ErrUploadUnknown)
	}
	if err != nil {
		return nil, diskError(err)
	}
	w := &writer{store: s, id: id, file: f, algorithm: state.Algorithm}
	if err := w.resume(state); err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// publish gives a synced upload its name, durably.
func (s *Store) publish(id string, d digest.Digest) error {
	to := s.blobPath(d)
	folder := filepath.Dir(to)
	if err := s.makeFolder(folder); err != nil {
		return err
	}
	if err := s.disk.Rename(s.uploadPath(id), to); err != nil {
		return err
	}
	return s.disk.SyncDir(folder)
}

// diskError tells a full disk, or a used-up quota, from other errors.
func diskError(err error) error {
	if storage.IsFull(err) {
		return fmt.Errorf("%w: %w", storage.ErrFull, err)
	}
	return err
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Interface guards
var (
	_ storage.BlobStore     = (*Store)(nil)
	_ storage.SpaceReporter = (*Store)(nil)
	_ File                  = (*os.File)(nil)
)
