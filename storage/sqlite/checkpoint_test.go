package sqlite_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/eblume/caddy-registry/storage"
)

// TestTheLogDoesNotGrowForEver also while writes never pause and others read.
func TestTheLogDoesNotGrowForEver(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "registry.db")
	d := open(t, path)
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				var n int
				if err := d.Read(t.Context()).QueryRow(`SELECT count(*) FROM runs`).Scan(&n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	text := make([]byte, 4<<20)
	var written, largest int64
	for i := range 60 {
		err := d.Write(t.Context(), func(tx storage.Tx) error {
			_, err := tx.Exec(`INSERT INTO runs (name, ended, result) VALUES ($1, 1, $2)`, fmt.Sprint(i), string(text))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		written += int64(len(text))
		log, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, log.Size())
	}
	stop()
	readers.Wait()
	if largest > written/2 {
		t.Errorf("of %d bytes that were written the log has had %d at once", written, largest)
	}
}
