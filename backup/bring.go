package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// bringer fills an empty registry: first it brings the bytes of blobs, for several at once,
// and then all facts in one step. Until then the registry stays empty, and what was brought
// is not brought again.
type bringer struct {
	copier
	// open returns the bytes of a blob.
	open func(context.Context, digest.Digest) (io.ReadCloser, error)

	again bool                   // what has no right bytes now may have them later
	come  []storage.BlobKey      // not recorded yet
	lost  []storage.StoredBlob   // that there are no right bytes of
	seen  map[digest.Digest]bool // brought
}

// bringAll brings all blobs that the source has now and that it has not brought yet.
func (b *bringer) bringAll(ctx context.Context) error {
	stats, err := b.from.Stats(ctx)
	if err != nil {
		return err
	}
	b.total = stats.BlobBytes
	if b.seen == nil {
		b.seen = make(map[digest.Digest]bool)
	}
	return eachBlob(ctx, b.from, b.bring, b.record)
}

func (b *bringer) bring(ctx context.Context, blob storage.StoredBlob) error {
	b.mu.Lock()
	seen := b.seen[blob.Digest]
	b.mu.Unlock()
	if seen {
		return nil
	}
	if blob.Damaged {
		if !b.again {
			b.count(blob, false) // that it is missing is known
		}
		return nil
	}
	has, err := b.to.IsBrought(ctx, blob)
	if err != nil {
		return err
	}
	if has {
		return b.arrived(ctx, blob, storage.BlobKey{})
	}
	var key storage.BlobKey
	bytes, err := b.open(ctx, blob.Digest)
	if err == nil {
		key, err = b.to.AddBytes(ctx, blob.Digest, storage.ContextReader(ctx, bytes))
		bytes.Close()
	}
	switch {
	case err == nil:
		return b.arrived(ctx, blob, key)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, storage.ErrBlobUnknown), errors.Is(err, storage.ErrDigestInvalid):
		b.lose(blob, err)
		return nil
	}
	return fmt.Errorf("bringing %s: %w", blob.Digest, err)
}

// recordEvery is how many blobs are recorded at once, and so brought again after a crash.
const recordEvery = 20

// arrived counts a blob that is where it should be; with a key it is so since now.
func (b *bringer) arrived(ctx context.Context, blob storage.StoredBlob, key storage.BlobKey) error {
	b.count(blob, key.Digest != "")
	b.mu.Lock()
	b.seen[blob.Digest] = true
	if key.Digest != "" {
		b.come = append(b.come, key)
	}
	due := len(b.come) >= recordEvery
	b.mu.Unlock()
	if !due {
		return nil
	}
	return b.record(context.WithoutCancel(ctx)) // what has come is there, whoever has left
}

// lose tells of a blob that cannot be brought.
func (b *bringer) lose(blob storage.StoredBlob, err error) {
	if b.again {
		return
	}
	b.problem(fmt.Sprintf("blob %s: %v", blob.Digest, err))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = append(b.lost, blob)
}

// record writes down what has come.
func (b *bringer) record(ctx context.Context) error {
	b.mu.Lock()
	come := b.come
	b.come = nil
	b.mu.Unlock()
	if len(come) == 0 {
		return nil
	}
	return b.to.RecordBrought(ctx, come)
}

// incomplete returns ErrIncomplete if there were blobs that could not be brought.
func (b *bringer) incomplete() error {
	if b.Problems == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d are missing or wrong", ErrIncomplete, b.Problems)
}
