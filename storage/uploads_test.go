package storage_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// interrupted runs something right before a write that follows a read.
type interrupted struct {
	storage.Database
	before func()
	once   sync.Once
}

func (d *interrupted) Write(ctx context.Context, f func(storage.Tx) error) error {
	if d.before != nil {
		d.once.Do(d.before)
	}
	return d.Database.Write(ctx, f)
}

// TestExpireRace makes an upload busy again after ExpireUploads found that it was not,
// and before it does something about it.
func TestExpireRace(t *testing.T) {
	ctx := context.Background()
	blobs, database, err := openDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	wrapped := &interrupted{Database: database}
	r := storage.New(blobs, wrapped)
	defer r.Close()
	id, err := r.StartUpload(ctx, "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	// An hour ago nothing was added.
	err = database.Write(ctx, func(tx storage.Tx) error {
		_, err := tx.Exec(`UPDATE uploads SET updated = $1`, time.Now().Add(-time.Hour).Unix())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wrapped.before = func() {
		// What AppendUpload of another process, or of a request that was quick, does.
		err := database.Write(ctx, func(tx storage.Tx) error {
			_, err := tx.Exec(`UPDATE uploads SET updated = $1`, time.Now().Unix())
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if err := r.ExpireUploads(ctx, time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	chunk := storage.Chunk{Body: idleBody{strings.NewReader("abc")}, Start: -1, Size: -1}
	if _, err := r.FinishUpload(ctx, "a", id, chunk, digest.FromString("abc")); err != nil {
		t.Errorf("an upload to which something was just added has expired: %v", err)
	}
}
