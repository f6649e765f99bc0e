package storage_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// sharedDatabase is one that several registries share, as processes do.
type sharedDatabase struct {
	storage.Database
	mu    sync.Mutex
	locks map[string]chan struct{}
}

func (*sharedDatabase) Shared() bool { return true }

func (*sharedDatabase) Close() error { return nil }

func (d *sharedDatabase) Lock(ctx context.Context, name string) (unlock func(), err error) {
	d.mu.Lock()
	if d.locks[name] == nil {
		d.locks[name] = make(chan struct{}, 1)
	}
	lock := d.locks[name]
	d.mu.Unlock()
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ReadMoment is one, since nothing is written meanwhile.
func (d *sharedDatabase) ReadMoment(ctx context.Context, f func(storage.Querier) error) error {
	return f(d.Read(ctx))
}

// openShared returns two registries over the same storage.
func openShared(t *testing.T) (a, b *storage.Registry, database storage.Database) {
	t.Helper()
	blobs, own, err := openDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(own.Close(), blobs.Close()); err != nil {
			t.Error(err)
		}
	})
	shared := &sharedDatabase{Database: own, locks: make(map[string]chan struct{})}
	a, b = storage.New(storage.Borrow(blobs), shared), storage.New(storage.Borrow(blobs), shared)
	return a, b, shared
}

func exec(t *testing.T, database storage.Database, statement string, args ...any) {
	t.Helper()
	err := database.Write(t.Context(), func(tx storage.Tx) error {
		_, err := tx.Exec(statement, args...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// slowBody gives its bytes when it is told.
type slowBody struct {
	io.Reader
	reading chan struct{} // gets one when it is read first
	ready   chan struct{}
	once    sync.Once
}

func newSlowBody(content string) *slowBody {
	return &slowBody{Reader: strings.NewReader(content), reading: make(chan struct{}, 1), ready: make(chan struct{})}
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.once.Do(func() { b.reading <- struct{}{} })
	<-b.ready
	return b.Reader.Read(p)
}

func (*slowBody) Interrupt() {}

// TestAPushIsSeenByOtherProcesses has one collect, and expire uploads, while another takes a
// push that goes on for longer than either delay.
func TestAPushIsSeenByOtherProcesses(t *testing.T) {
	t.Parallel()
	const small, large = "a small layer that came first", "a large one"
	for name, push := range map[string]func(*storage.Registry, storage.Body) error{
		"in one request": func(r *storage.Registry, body storage.Body) error {
			return r.PushBlob(context.Background(), "a", body, digest.FromString(large))
		},
		"as an upload": func(r *storage.Registry, body storage.Body) error {
			id, err := r.StartUpload(context.Background(), "a", digest.SHA256)
			if err == nil {
				_, err = r.FinishUpload(context.Background(), "a", id, storage.Chunk{Body: body, Start: -1, Size: -1}, digest.FromString(large))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, database := openShared(t)
			a.SetTouchInterval(time.Millisecond)
			if err := a.PushBlob(t.Context(), "a", strings.NewReader(small), digest.FromString(small)); err != nil {
				t.Fatal(err)
			}
			body := newSlowBody(large)
			pushed := make(chan error, 1)
			go func() { pushed <- push(a, body) }()
			<-body.reading
			// Two hours pass.
			old := time.Now().Add(-2 * time.Hour).Unix()
			exec(t, database, `UPDATE repository_blobs SET unreferenced = $1`, old)
			exec(t, database, `UPDATE uploads SET updated = $1`, old)
			for touched := old; touched == old; {
				if err := database.Read(t.Context()).QueryRow(`SELECT updated FROM uploads`).Scan(&touched); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := b.Collect(t.Context(), storage.CollectOptions{Delay: time.Hour, UploadExpiry: time.Hour}); err != nil {
				t.Fatal(err)
			}
			close(body.ready)
			if err := <-pushed; err != nil {
				t.Error(err)
			}
			for _, content := range []string{small, large} {
				if _, err := b.StatBlob(t.Context(), "a", digest.FromString(content)); err != nil {
					t.Error(err)
				}
			}
			if stats, err := b.Stats(t.Context()); err != nil || stats.Uploads != 0 {
				t.Errorf("%+v, %v: uploads are left", stats, err)
			}
		})
	}
}

// TestOneProcessDoesWhatIsDueForAll however many find that it is due.
func TestOneProcessDoesWhatIsDueForAll(t *testing.T) {
	t.Parallel()
	a, b, _ := openShared(t)
	for what, do := range map[string]func(*storage.Registry, time.Duration) error{
		"collect": func(r *storage.Registry, interval time.Duration) error {
			_, err := r.Collect(context.Background(), storage.CollectOptions{Interval: interval})
			return err
		},
		"verify": func(r *storage.Registry, interval time.Duration) error {
			_, err := r.Verify(context.Background(), storage.VerifyOptions{Interval: interval})
			return err
		},
	} {
		var did atomic.Int32
		var all sync.WaitGroup
		for range 5 {
			for _, r := range []*storage.Registry{a, b} {
				all.Go(func() {
					switch err := do(r, time.Hour); {
					case err == nil:
						did.Add(1)
					case !errors.Is(err, storage.ErrDoneElsewhere):
						t.Errorf("%s: %v", what, err)
					}
				})
			}
		}
		all.Wait()
		if did.Load() != 1 {
			t.Errorf("%s: %d did so", what, did.Load())
		}
		if err := do(a, 0); err != nil {
			t.Errorf("%s, since a person asks for it: %v", what, err)
		}
	}
}

// TestQuotasAreRightWhenAllKnowThem though pushes went by processes that did not yet.
func TestQuotasAreRightWhenAllKnowThem(t *testing.T) {
	t.Parallel()
	a, b, _ := openShared(t)
	quotas := []storage.Quota{{Name: "a", Match: func(name string) bool { return name == "a" }, Bytes: 10}}
	push := func(r *storage.Registry, content string) error {
		return r.PushBlob(t.Context(), "a", strings.NewReader(content), digest.FromString(content))
	}
	set := func(r *storage.Registry, quotas []storage.Quota) {
		t.Helper()
		if err := r.SetQuotas(t.Context(), quotas); err != nil {
			t.Fatal(err)
		}
	}
	set(a, quotas)
	set(b, nil)
	if err := push(b, "8 bytes."); err != nil {
		t.Fatal(err)
	}
	set(b, quotas)
	for _, r := range []*storage.Registry{a, b} {
		if err := push(r, "4 by"); !errors.Is(err, storage.ErrQuota) {
			t.Errorf("a push over the quota: %v", err)
		}
		if err := push(r, "2b"); err != nil {
			t.Errorf("a push within it: %v", err)
		}
	}
}

// TestEvictionGoesOnBesideOneThatStandsStill in another process.
func TestEvictionGoesOnBesideOneThatStandsStill(t *testing.T) {
	t.Parallel()
	a, b, _ := openShared(t)
	release, err := a.HoldEviction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	second, err := b.HoldEviction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second()
}

// lateLocks gives a lock in the moment in which nobody waits for it any more.
type lateLocks struct {
	sharedDatabase
	held atomic.Int32
}

func (d *lateLocks) Lock(ctx context.Context, _ string) (unlock func(), err error) {
	<-ctx.Done()
	d.held.Add(1)
	return func() { d.held.Add(-1) }, nil
}

// TestALockThatComesLateIsGivenBack when it is no longer needed.
func TestALockThatComesLateIsGivenBack(t *testing.T) {
	t.Parallel()
	blobs, own, err := openDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(own.Close(), blobs.Close()); err != nil {
			t.Error(err)
		}
	})
	database := &lateLocks{sharedDatabase: sharedDatabase{Database: own}}
	r := storage.New(storage.Borrow(blobs), database)
	for range 2 { // the second one waits for the first one's
		release, err := r.HoldEviction(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		release()
		if held := database.held.Load(); held != 0 {
			t.Errorf("%d locks are held that nobody needs", held)
		}
	}
}

// TestWhoWaitsIsTold that another process does what must not be disturbed.
func TestWhoWaitsIsTold(t *testing.T) {
	t.Parallel()
	a, b, _ := openShared(t)
	release, err := a.HoldCollection(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		_, err := b.Collect(context.Background(), storage.CollectOptions{Report: func(p storage.Progress) {
			if p.Line != "" {
				told <- p.Line
			}
		}})
		done <- err
	}()
	if line := <-told; !strings.Contains(line, "waiting until another") {
		t.Errorf("told: %q", line)
	}
	release()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
