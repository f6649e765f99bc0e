package backup_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// TestAMoveLosesNothingAcknowledged has clients push until they are refused: what was
// acknowledged is in the new registry, and all of it is still read from the old one.
func TestAMoveLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	for i := range 50 {
		from.push("team/first", fmt.Sprint("layer ", i), fmt.Sprint("v", i))
	}
	var clients sync.WaitGroup
	started := make(chan struct{}, 3)
	for i := range 3 {
		clients.Go(func() {
			for n := 0; ; n++ {
				layer, name := fmt.Sprint("layer ", i, " ", n), fmt.Sprint("team/", i)
				d := digest.FromString(layer)
				err := from.PushBlob(context.Background(), name, strings.NewReader(layer), d)
				if err == nil {
					err = from.PushBlob(context.Background(), name, strings.NewReader("{}"), digest.FromString("{}"))
				}
				if err == nil {
					_, err = from.PutManifest(context.Background(), name, imageOf(t, d), storage.Put{Tags: []string{fmt.Sprint("v", n)}})
				}
				if n == 3 {
					started <- struct{}{}
				}
				if errors.Is(err, storage.ErrMoving) && errors.Is(err, storage.ErrUnavailable) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		<-started
	}
	summary, err := backup.Migrate(t.Context(), from.Registry, to.Registry, backup.MigrateOptions{})
	if err != nil || summary.Copied == 0 || summary.Copied != summary.Blobs {
		t.Fatalf("%+v, %v", summary, err)
	}
	clients.Wait()
	want := from.contents()
	if got := to.contents(); !slices.Equal(got, want) {
		t.Errorf("moved %d tags of %d", len(got), len(want))
	}
	if _, err := to.Verify(t.Context(), storage.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	to.push("team/new", "layer", "v1")
	// The old one removes nothing any more.
	if _, err := from.Collect(t.Context(), storage.CollectOptions{}); err != nil && !errors.Is(err, storage.ErrMoving) {
		t.Error(err)
	}
	if got := from.contents(); !slices.Equal(got, want) {
		t.Error("the old registry has lost something")
	}
}

func TestAMoveThatWasInterruptedGoesOn(t *testing.T) {
	t.Parallel()
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	for i := range 12 {
		from.push("a", fmt.Sprint("layer ", i), fmt.Sprint("v", i))
	}
	for i := range 10 {
		interruptAfter(t, i, func(ctx context.Context, report storage.Report) error {
			_, err := backup.Migrate(ctx, from.Registry, to.Registry, backup.MigrateOptions{Report: report})
			return err
		})
		if err := to.CheckEmpty(t.Context()); err != nil {
			t.Fatalf("after %d steps: %v", i, err)
		}
		from.push("a", fmt.Sprint("pushed after ", i), "after") // since it takes pushes again
	}
	summary, err := backup.Migrate(t.Context(), from.Registry, to.Registry, backup.MigrateOptions{})
	if err != nil || summary.Copied >= summary.Blobs {
		t.Errorf("%+v, %v: it did not go on where it was interrupted", summary, err)
	}
	if got := to.contents(); !slices.Equal(got, from.contents()) {
		t.Errorf("moved: %q", got)
	}
	if _, err := backup.Migrate(t.Context(), from.Registry, to.Registry, backup.MigrateOptions{}); !errors.Is(err, storage.ErrNotEmpty) {
		t.Errorf("moved once more: %v", err)
	}
}

// TestOnlyTheDatabaseIsMoved leaves the bytes where they are.
func TestOnlyTheDatabaseIsMoved(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	blobs, err := filesystem.Open(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { blobs.Close() })
	openWith := func(name string) *registry {
		database, err := sqlite.Open(t.Context(), filepath.Join(folder, name), sqlite.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r, err := storage.New(t.Context(), kept{blobs}, database)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		return &registry{r, t, folder}
	}
	from, to := openWith("registry.db"), openWith("other.db")
	from.push("a", "layer", "v1")
	if summary, err := backup.Migrate(t.Context(), from.Registry, to.Registry, backup.MigrateOptions{SameStore: true}); err != nil || summary.Copied != 0 {
		t.Errorf("%+v, %v", summary, err)
	}
	if got := to.contents(); len(got) != 1 || !slices.Equal(got, from.contents()) {
		t.Errorf("moved: %q", got)
	}
}

// kept is a store that stays open when a registry over it is closed.
type kept struct{ storage.BlobStore }

func (kept) Close() error { return nil }

func TestDamageIsMovedAsSuch(t *testing.T) {
	t.Parallel()
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	from.push("a", "spoilt", "v1")
	from.push("a", "right", "v2")
	from.spoil("spoilt")
	var told string
	summary, err := backup.Migrate(t.Context(), from.Registry, to.Registry, backup.MigrateOptions{Report: func(p storage.Progress) { told += p.Line }})
	if !errors.Is(err, backup.ErrIncomplete) || summary.Problems != 1 || !strings.Contains(told, digest.FromString("spoilt").String()) {
		t.Errorf("%+v, %v, %q", summary, err, told)
	}
	for content, want := range map[string]error{"spoilt": storage.ErrBlobUnknown, "right": nil} {
		if _, err := to.StatBlob(t.Context(), "a", digest.FromString(content)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", content, err, want)
		}
	}
	to.push("a", "spoilt", "v1") // which heals it
	if _, err := to.Verify(t.Context(), storage.VerifyOptions{}); err != nil {
		t.Error(err)
	}
}
