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
	if err := to.Freeze(t.Context()); err != nil { // as if it had been moved when it was empty
		t.Fatal(err)
	}
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

// thawing is a database that is filled only once another registry takes writes again.
type thawing struct {
	storage.Database
	other *storage.Registry
}

func (d thawing) Write(ctx context.Context, f func(storage.Tx) error) error {
	if moving, err := d.other.Moving(ctx); err != nil || moving {
		if err := errors.Join(err, d.other.Thaw(ctx)); err != nil {
			return err
		}
	}
	return d.Database.Write(ctx, f)
}

// TestAMoveThatWasUndoneMeanwhileSaysSo since what is pushed from then on is not moved.
func TestAMoveThatWasUndoneMeanwhileSaysSo(t *testing.T) {
	t.Parallel()
	from, dir := open(t, t.TempDir()), t.TempDir()
	from.push("a", "layer", "v1")
	blobs, err := filesystem.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	database, err := sqlite.Open(t.Context(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(errors.Join(err, blobs.Close()))
	}
	to := storage.New(blobs, thawing{database, from.Registry})
	t.Cleanup(func() { to.Close() })
	if _, err := backup.Migrate(t.Context(), from.Registry, to, backup.MigrateOptions{}); !errors.Is(err, backup.ErrUndone) {
		t.Errorf("Migrate: %v", err)
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
		r := storage.New(storage.Borrow(blobs), database)
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

// TestWhatIsHealedDuringAMoveIsMoved finds a blob damaged at first, and pushed again before
// the registry is frozen.
func TestWhatIsHealedDuringAMoveIsMoved(t *testing.T) {
	t.Parallel()
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	from.push("a", "spoilt", "v1")
	from.spoil("spoilt")
	if _, err := from.Verify(t.Context(), storage.VerifyOptions{}); !errors.Is(err, storage.ErrDamaged) {
		t.Fatalf("Verify: %v", err)
	}
	from.push("a", "after it", "v2")
	var heal sync.Once
	summary, err := backup.Migrate(t.Context(), from.Registry, to.Registry, backup.MigrateOptions{Report: func(p storage.Progress) {
		heal.Do(func() { from.pushBlob("a", "spoilt") })
	}})
	if err != nil || summary.Problems > 0 || summary.Blobs != 3 {
		t.Errorf("%+v, %v", summary, err)
	}
	if err := to.checkBlob("a", digest.FromString("spoilt")); err != nil {
		t.Error(err)
	}
}

// TestLoadingWantsAllBytes but those that are known to be lost.
func TestLoadingWantsAllBytes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	from, to := open(t, t.TempDir()), open(t, t.TempDir())
	d, lost := from.pushBlob("a", "there"), from.pushBlob("a", "lost")
	blobs, err := from.StoredBlobs(ctx, storage.StoredBlob{})
	if err != nil || len(blobs) != 2 || blobs[1].Digest != lost {
		t.Fatal(blobs, err)
	}
	options := storage.LoadOptions{Lost: blobs[1:]}
	if err := to.Load(ctx, from.Registry, options); err == nil || !strings.Contains(err.Error(), "not brought") {
		t.Errorf("without bytes: %v", err)
	}
	if err := to.CheckEmpty(ctx); err != nil {
		t.Errorf("after that: %v", err)
	}
	key, err := to.AddBytes(ctx, d, strings.NewReader("there"))
	if err != nil {
		t.Fatal(err)
	}
	// What is lost by now was brought once.
	if err := to.RecordBrought(ctx, []storage.BlobKey{key, {Digest: lost, Place: "once"}}); err != nil {
		t.Fatal(err)
	}
	if err := to.Load(ctx, from.Registry, options); err != nil {
		t.Fatal(err)
	}
	if err := to.checkBlob("a", d); err != nil {
		t.Error(err)
	}
	if _, err := to.StatBlob(ctx, "a", lost); !errors.Is(err, storage.ErrBlobUnknown) {
		t.Errorf("what is lost: %v", err)
	}
}

// forgetful is a database whose answer gets lost that it has repositories by now.
type forgetful struct{ storage.Database }

var errNoAnswer = errors.New("no answer")

func (d forgetful) Write(ctx context.Context, f func(storage.Tx) error) error {
	if err := d.Database.Write(ctx, f); err != nil {
		return err
	}
	var n int
	if err := d.Read(ctx).QueryRow(`SELECT count(*) FROM repositories`).Scan(&n); err != nil {
		return err
	}
	if n > 0 {
		return errNoAnswer
	}
	return nil
}

// TestAMoveThatMayBeDoneIsNotUndone but by who knows, and also not after a restart.
func TestAMoveThatMayBeDoneIsNotUndone(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	from := open(t, folder)
	from.push("a", "layer", "v1")
	dir := t.TempDir()
	blobs, err := filesystem.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	database, err := sqlite.Open(t.Context(), filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	to := storage.New(blobs, forgetful{database})
	defer to.Close()
	if _, err := backup.Migrate(t.Context(), from.Registry, to, backup.MigrateOptions{}); !errors.Is(err, backup.ErrUndecided) || !errors.Is(err, errNoAnswer) {
		t.Fatalf("%v", err)
	}
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	from = open(t, folder)
	refused := func() error {
		return from.PushBlob(t.Context(), "a", strings.NewReader("x"), digest.FromString("x"))
	}
	if err := refused(); !errors.Is(err, storage.ErrMoving) {
		t.Errorf("a push is answered %v", err)
	}
	// A move to elsewhere that fails leaves it so, too.
	full := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	_, err = backup.Migrate(ctx, from.Registry, full.Registry, backup.MigrateOptions{Report: func(storage.Progress) { cancel() }})
	if err == nil {
		t.Error("a move that was cancelled has succeeded")
	}
	if err := refused(); !errors.Is(err, storage.ErrMoving) {
		t.Errorf("after another move that failed a push is answered %v", err)
	}
	// A backup of it takes pushes.
	saved := filepath.Join(t.TempDir(), "backup")
	if _, err := backup.Make(t.Context(), from.Registry, saved, nil); err != nil {
		t.Fatal(err)
	}
	open(t, saved).push("a", "new", "v2")
	if err := backup.Stay(t.Context(), from.Registry); err != nil {
		t.Fatal(err)
	}
	if err := refused(); err != nil {
		t.Errorf("after Stay: %v", err)
	}
}
