// Package backup copies a registry to a folder and back, or to another registry. A backup is
// laid out as the storage directory of a server is, registry.db beside blobs, so that one
// can be started on it; see packages filesystem and sqlite.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// Summary is what was done.
type Summary struct {
	Blobs    int64 `json:"blobs"`    // that there are in the backup
	Copied   int64 `json:"copied"`   // of those, that were not there yet
	Bytes    int64 `json:"bytes"`    // that those have
	Problems int64 `json:"problems"` // blobs whose bytes are not what they should be
}

// ErrIncomplete means that some blobs could not be copied; all else was.
var ErrIncomplete = errors.New("some blobs could not be copied")

const (
	databaseName = "registry.db"
	nextName     = "registry.db.next" // the one that takes its place when all blobs are there
)

// Make copies a registry to a folder, which must be empty or have an earlier backup: then
// only what is new is copied. Pushes and pulls go on meanwhile. Until it returns, and also
// if it never does, the folder has the earlier backup.
func Make(ctx context.Context, registry *storage.Registry, folder string, report storage.Report) (Summary, error) {
	store, err := openFolder(ctx, folder)
	if err != nil {
		return Summary{}, err
	}
	summary, err := makeIn(ctx, registry, store, folder, report)
	return summary, errors.Join(err, store.Close())
}

// openFolder opens a folder for a backup, unless it has something else.
func openFolder(ctx context.Context, folder string) (*filesystem.Store, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var isBackup bool
	for _, entry := range entries {
		isBackup = isBackup || entry.Name() == databaseName || entry.Name() == nextName
	}
	if len(entries) > 0 && !isBackup && !isUnfinished(entries) {
		return nil, fmt.Errorf("%s has other files than a backup's; name an empty folder, or one with an earlier backup", folder)
	}
	store, err := filesystem.Open(ctx, folder)
	if errors.Is(err, storage.ErrInUse) {
		return nil, fmt.Errorf("%s: %w; a backup goes to a folder of its own", folder, err)
	}
	return store, err
}

// isUnfinished reports whether a backup was interrupted before there was a database.
func isUnfinished(entries []fs.DirEntry) bool {
	for _, entry := range entries {
		switch entry.Name() {
		case "blobs", "uploads", "lock":
		default:
			return false
		}
	}
	return true
}

func makeIn(ctx context.Context, registry *storage.Registry, store *filesystem.Store, folder string, report storage.Report) (Summary, error) {
	release, err := registry.HoldCollection(ctx, report)
	if err != nil {
		return Summary{}, err
	}
	defer release()
	next := filepath.Join(folder, nextName)
	for _, left := range []string{next, next + "-wal", next + "-shm"} {
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Summary{}, err
		}
	}
	if err := snapshot(ctx, registry, next); err != nil {
		return Summary{}, fmt.Errorf("copying the database: %w", err)
	}
	c := &copier{from: registry, store: store, report: report}
	err = withRegistry(ctx, store, next, func(copied *storage.Registry) error {
		if err := copied.LeaveStore(ctx); err != nil {
			return err
		}
		c.to = copied
		return c.copyAll(ctx)
	})
	if err != nil {
		return c.Summary, err
	}
	if err := replace(next, filepath.Join(folder, databaseName)); err != nil {
		return c.Summary, err
	}
	err = withRegistry(ctx, store, filepath.Join(folder, databaseName), func(copied *storage.Registry) error {
		return copied.SweepBytes(ctx)
	})
	if err == nil && c.Problems > 0 {
		err = fmt.Errorf("%w: %d are missing in the backup", ErrIncomplete, c.Problems)
	}
	return c.Summary, err
}

// snapshot writes all facts, as they are at one moment, to a new file.
func snapshot(ctx context.Context, registry *storage.Registry, file string) error {
	if ok, err := registry.Snapshot(ctx, file); ok || err != nil {
		return err
	}
	database, err := sqlite.Open(ctx, file, sqlite.Options{})
	if err != nil {
		return err
	}
	copied := storage.New(noBlobs{}, database)
	return errors.Join(copied.Load(ctx, registry, storage.LoadOptions{SameStore: true}), copied.Close())
}

// withRegistry calls f with the registry that a database file and a store make.
func withRegistry(ctx context.Context, store *filesystem.Store, file string, f func(*storage.Registry) error) error {
	database, err := sqlite.Open(ctx, file, sqlite.Options{})
	if err != nil {
		return err
	}
	defer os.Remove(file + ".lock")
	registry := storage.New(storage.Borrow(store), database)
	return errors.Join(f(registry), registry.Close())
}

// replace puts a database in the place of another one, durably.
func replace(next, current string) error {
	for _, name := range []string{current + "-wal", current + "-shm"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncFile(next); err != nil {
		return err
	}
	if err := os.Rename(next, current); err != nil {
		return err
	}
	return filesystem.SyncDir(filepath.Dir(current))
}

func syncFile(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// copier copies the bytes of blobs to a backup.
type copier struct {
	from, to *storage.Registry
	store    *filesystem.Store
	report   storage.Report
	total    int64

	mu sync.Mutex
	Summary
	done int64
}

func (c *copier) copyAll(ctx context.Context) error {
	stats, err := c.to.Stats(ctx)
	if err != nil {
		return err
	}
	c.total = stats.BlobBytes
	return eachBlob(ctx, c.to, c.copy, func(context.Context) error { return nil })
}

// eachBlob calls f for all blobs of a registry, for several at once, and then now and then,
// when nobody is in f.
func eachBlob(ctx context.Context, registry *storage.Registry, f func(context.Context, storage.StoredBlob) error, then func(context.Context) error) error {
	for last := (storage.StoredBlob{}); ; {
		page, err := registry.StoredBlobs(ctx, last)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1]
		workers, working := errgroup.WithContext(ctx)
		workers.SetLimit(runtime.GOMAXPROCS(0))
		for _, b := range page {
			workers.Go(func() error {
				if err := working.Err(); err != nil {
					return err
				}
				return f(working, b)
			})
		}
		// What some have done counts, whatever has become of others.
		if err := errors.Join(workers.Wait(), then(context.WithoutCancel(ctx))); err != nil {
			return err
		}
	}
}

// copy copies a blob unless the backup has it.
func (c *copier) copy(ctx context.Context, b storage.StoredBlob) error {
	if has, err := c.to.HasBytes(ctx, b); err != nil || has {
		c.count(b, false)
		return err
	}
	if b.Damaged {
		c.count(b, false)
		return nil // that it is missing is known
	}
	bytes, err := c.from.OpenBytes(ctx, b.Digest)
	if err == nil {
		_, err = c.to.AddBytes(ctx, b.Digest, storage.ContextReader(ctx, bytes))
		bytes.Close()
	}
	switch {
	case err == nil:
		c.count(b, true)
		return nil
	case b.Copied && errors.Is(err, storage.ErrBlobUnknown):
		// It was evicted meanwhile; a registry that is restored fetches it again.
		return c.to.Lose(ctx, b)
	case errors.Is(err, storage.ErrBlobUnknown), errors.Is(err, storage.ErrDigestInvalid):
		c.problem(fmt.Sprintf("blob %s: %v", b.Digest, err))
		return c.to.Lose(ctx, b)
	}
	return fmt.Errorf("copying %s: %w", b.Digest, err)
}

func (c *copier) count(b storage.StoredBlob, copied bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Blobs++
	c.done += b.Size
	if copied {
		c.Copied++
		c.Bytes += b.Size
	}
	if c.report != nil {
		c.report(storage.Progress{Done: c.done, Total: c.total, Unit: "bytes"})
	}
}

func (c *copier) problem(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Problems++
	if c.report != nil {
		c.report(storage.Progress{Line: line, Done: c.done, Total: c.total, Unit: "bytes"})
	}
}

// blobFile is where a backup has the bytes of a blob.
func blobFile(folder string, d digest.Digest) string {
	return filepath.Join(folder, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}
