package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// Restore fills an empty registry, which may be served, from a backup. The blobs come
// first, and the facts of all of them in one step at last: until then the registry is
// empty, and a restore that was interrupted goes on when it is run again. A blob that the
// backup lacks is marked as damaged, or left to be fetched from its upstream, and told;
// then the error is ErrIncomplete.
func Restore(ctx context.Context, registry *storage.Registry, folder string, report storage.Report) (Summary, error) {
	if err := registry.CheckEmpty(ctx); err != nil {
		return Summary{}, fmt.Errorf("%w; a backup is restored to an empty one only", err)
	}
	release, err := registry.HoldCollection(ctx, report)
	if err != nil {
		return Summary{}, err
	}
	defer release()
	// The backup is not to be changed, not even to the schema of today.
	temporary, err := os.MkdirTemp("", "registry-restore-")
	if err != nil {
		return Summary{}, err
	}
	defer os.RemoveAll(temporary)
	file := filepath.Join(temporary, databaseName)
	if err := copyDatabase(folder, file); err != nil {
		return Summary{}, err
	}
	database, err := sqlite.Open(ctx, file, sqlite.Options{})
	if err != nil {
		return Summary{}, fmt.Errorf("%s: %w", filepath.Join(folder, databaseName), err)
	}
	from := storage.New(noBlobs{}, database)
	b := &bringer{copier: copier{from: from, to: registry, report: report}, open: func(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
		return os.Open(blobFile(folder, d))
	}}
	if err = b.bringAll(ctx); err == nil {
		err = registry.Load(ctx, from, storage.LoadOptions{Lost: b.lost})
	}
	if err == nil {
		err = b.incomplete()
	}
	return b.Summary, errors.Join(err, from.Close())
}

// copyDatabase copies a backup's database, and what belongs to it if a server was run on it.
func copyDatabase(folder, to string) error {
	for _, suffix := range []string{"", "-wal"} {
		err := copyFile(filepath.Join(folder, databaseName)+suffix, to+suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix == "" {
			return fmt.Errorf("%s is no backup: it has no %s", folder, databaseName)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	if info, err := source.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("%s is not a file", from))
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// noBlobs is the blob store of a registry of which only the facts are wanted.
type noBlobs struct{ storage.BlobStore }

func (noBlobs) Close() error { return nil }
