package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// Linker is a [BlobStore] that can take files without copying their bytes.
type Linker interface {
	// Link makes a file the bytes of a new upload, a UUID, which a writer then goes on
	// with. ErrNotLinked: the file is on another disk, for instance.
	Link(id, file string) error
}

// ErrNotLinked means that the bytes of a file must be copied.
var ErrNotLinked = errors.New("file cannot be linked")

// ImportBlob makes a file the blob d of a repository, a copy of the upstream's unless that
// is empty, by a link if link is set and that can be done. It reports whether the bytes
// came, and how: those of a blob that is stored already are not read again.
// ErrDigestInvalid: the file has others.
func (r *Registry) ImportBlob(ctx context.Context, repository, upstream string, d digest.Digest, file string, link bool) (came, linked bool, err error) {
	known, err := r.importKnown(ctx, repository, upstream, d)
	if err != nil || known {
		return false, false, err
	}
	id, release := r.newUpload()
	defer release()
	state := UploadState{Algorithm: d.Algorithm()}
	if linker, ok := r.blobs.(Linker); ok && link {
		err := linker.Link(id, file)
		if err != nil && !errors.Is(err, ErrNotLinked) {
			return false, false, err
		}
		linked = err == nil
	}
	w, err := r.blobs.Writer(ctx, id, state)
	if err != nil {
		return false, false, errors.Join(err, r.blobs.Discard(ctx, id))
	}
	if !linked {
		if err := readFile(ctx, w, file); err != nil {
			return false, false, errors.Join(err, w.Discard())
		}
	}
	err = r.commitUpload(ctx, &upload{BlobWriter: w, id: id}, d, upstream, repository)
	return err == nil, linked, err
}

// importKnown makes a blob whose bytes are stored part of a repository.
func (r *Registry) importKnown(ctx context.Context, repository, upstream string, d digest.Digest) (known bool, err error) {
	err = r.database.Write(ctx, func(tx Tx) error {
		var blob int64
		err := tx.QueryRow(`SELECT id FROM blobs WHERE digest = $1 AND damaged IS NULL`, d.String()).Scan(&blob)
		if known = err == nil; errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		id, err := ensureRepository(tx, repository, upstream)
		if err != nil {
			return err
		}
		return r.hold(tx, id, blob)
	})
	return known, err
}

func readFile(ctx context.Context, w BlobWriter, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := w.ReadFrom(ContextReader(ctx, f)); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// ContextReader returns a reader of r that ends with a context.
func ContextReader(ctx context.Context, r io.Reader) io.Reader { return &contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context
	io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.Reader.Read(p)
}
