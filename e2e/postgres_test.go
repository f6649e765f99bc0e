//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/bench/scale"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/postgres"
	"github.com/eblume/caddy-registry/storage/storagetest"
)

// TestPostgres has PostgreSQL keep all that storagetest asks of a database, and of a
// registry with its facts there.
func TestPostgres(t *testing.T) {
	p := newPostgres(t)
	p.start()
	t.Run("database", func(t *testing.T) {
		storagetest.TestDatabase(t, func(t testing.TB) func() (storage.Database, error) {
			url := p.newDatabase(t)
			return func() (storage.Database, error) { return postgres.Open(context.Background(), url) }
		})
	})
	t.Run("registry", func(t *testing.T) {
		storagetest.TestRegistry(t, func(t testing.TB) storagetest.Open {
			url, dir := p.newDatabase(t), t.TempDir()
			return func() (storage.BlobStore, storage.Database, error) {
				blobs, err := filesystem.Open(context.Background(), dir)
				if err != nil {
					return nil, nil, err
				}
				database, err := postgres.Open(context.Background(), url)
				if err != nil {
					return nil, nil, errors.Join(err, blobs.Close())
				}
				return blobs, database, nil
			}
		})
	})
}

// TestEveryQueryOfTheAPIUsesAnIndex of PostgreSQL.
func TestEveryQueryOfTheAPIUsesAnIndex(t *testing.T) {
	p := newPostgres(t)
	p.start()
	database, err := postgres.Open(t.Context(), p.newDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	size := scale.Size{Repositories: 100}
	if err := scale.Fill(t.Context(), database, size); err != nil {
		t.Fatal(err)
	}
	err = database.Write(t.Context(), func(tx storage.Tx) error {
		_, err := tx.Exec("ANALYZE")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := filesystem.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	recorder, err := scale.Measure(t.Context(), blobs, database, size, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer recorder.Close()
	plans, err := recorder.Plans(t.Context(), scale.PostgreSQL)
	if err != nil || len(plans) < 50 {
		t.Fatalf("%d plans, %v", len(plans), err)
	}
	for _, plan := range plans {
		for _, table := range plan.Scanned {
			t.Errorf("%s is read from one end to the other by\n%s\n%s", table, plan.Statement.Text, strings.Join(plan.Lines, "\n"))
		}
	}
}

// onPostgres is a registry as it is usually served, with its facts in PostgreSQL.
func onPostgres(url string) string {
	return strings.Replace(registryCaddyfile, "storage filesystem {$STORAGE}", "storage filesystem {$STORAGE}\n\t\tsparse on\n\t\tdatabase postgres "+url, 1)
}

// TestPostgresRestartsUnderLoad: pushes that were acknowledged are there, others were told
// that they may try again, and it heals by itself.
func TestPostgresRestartsUnderLoad(t *testing.T) {
	db := newPostgres(t)
	db.start()
	p := newProcess(t, onPostgres(db.newDatabase(t)))
	p.start()
	send := p.client()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	var mu sync.Mutex
	pushed := make(map[string][]byte) // paths of manifests that were acknowledged
	refused := 0
	for c := range 4 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("load/c%d", c)
				content := fmt.Appendf(nil, "blob %d of %d", i, c)
				manifest := imageOf(nil, content)
				a, err := pushBlob(send, name, "single POST", content)
				if err == nil && a.status == http.StatusCreated {
					a, err = pushManifest(send, name, fmt.Sprint("v", i), manifest)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				switch a.status {
				case http.StatusCreated:
					pushed[fmt.Sprintf("/v2/%s/manifests/v%d", name, i)] = manifest
				case http.StatusServiceUnavailable:
					refused++
					if a.header.Get("Retry-After") == "" {
						t.Errorf("no Retry-After: %v", a)
					}
				default:
					t.Errorf("push: %v", a)
				}
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(pushed)
	}
	eventually(t, "pushes are acknowledged", func() error { return atLeast(count(), 50) })
	for range 2 {
		db.stop()
		eventually(t, "pushes are refused", func() error {
			mu.Lock()
			defer mu.Unlock()
			return atLeast(refused, 1)
		})
		expect(t, http.StatusServiceUnavailable)(send(http.MethodGet, "/readyz", nil, nil))
		db.start()
		mu.Lock()
		refused = 0
		mu.Unlock()
		before := count()
		eventually(t, "pushes are acknowledged again", func() error { return atLeast(count(), before+50) })
	}
	close(stop)
	clients.Wait()
	for path, want := range pushed {
		mustRead(t, send, path, want)
	}
	t.Logf("%d pushes were acknowledged", len(pushed))
}

func atLeast(n, want int) error {
	if n < want {
		return fmt.Errorf("%d, want %d", n, want)
	}
	return nil
}

// TestLocksGoWithTheirHolders and with nobody else.
func TestLocksGoWithTheirHolders(t *testing.T) {
	p := newPostgres(t)
	p.start()
	url := p.newDatabase(t)
	open := func() *postgres.Database {
		database, err := postgres.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { database.Close() })
		return database
	}
	first, second := open(), open()
	unlock, err := first.Lock(t.Context(), "collect")
	if err != nil {
		t.Fatal(err)
	}
	// Who is no longer waiting does not get it.
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := second.Lock(ctx, "collect"); err == nil {
			t.Error("two have the lock")
		}
		cancel()
	}
	unlock()
	held := func() (n int) {
		t.Helper()
		err := second.Read(t.Context()).QueryRow(`SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "nobody has it", func() error {
		if n := held(); n > 0 {
			return fmt.Errorf("%d have it", n)
		}
		return nil
	})
	// Who has it loses it with the connection, and others get it.
	lost, err := first.Lock(t.Context(), "collect")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.exec(`SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'`); err != nil {
		t.Fatal(err)
	}
	got, err := second.Lock(t.Context(), "collect")
	if err != nil {
		t.Fatal(err)
	}
	lost() // does not take it from who has it now
	if n := held(); n != 1 {
		t.Errorf("%d have the lock", n)
	}
	got()
}

// silentProxy passes connections on. When it is told to it lets nothing through any more on
// those that there are, while new ones work.
type silentProxy struct {
	net.Listener
	mu     sync.Mutex
	silent chan struct{} // closed for those that there are
}

func newSilentProxy(t *testing.T, to string) *silentProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	p := &silentProxy{Listener: listener, silent: make(chan struct{})}
	go func() {
		for {
			client, err := p.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			silent := p.silent
			p.mu.Unlock()
			go pass(server, client, silent)
			go pass(client, server, silent)
		}
	}()
	return p
}

// silence lets nothing more through.
func (p *silentProxy) silence() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.silent)
	p.silent = make(chan struct{})
}

func pass(to, from net.Conn, silent <-chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-silent:
			// Who closes a connection is not told that either.
			return
		default:
		}
		if _, writeErr := to.Write(buf[:n]); err != nil || writeErr != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// TestSilentConnectionsAreReplaced which something in between has forgotten.
func TestSilentConnectionsAreReplaced(t *testing.T) {
	p := newPostgres(t)
	p.start()
	address, err := url.Parse(p.newDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	proxy := newSilentProxy(t, address.Host)
	address.Host = proxy.Addr().String()
	database, err := postgres.Open(t.Context(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	write := func(name string) error {
		return database.Write(t.Context(), func(tx storage.Tx) error {
			_, err := tx.Exec(`INSERT INTO usage (name, bytes) VALUES ($1, 1)`, name)
			return err
		})
	}
	if err := write("before"); err != nil {
		t.Fatal(err)
	}
	proxy.silence()
	if err := write("after"); err != nil {
		t.Errorf("a write that is tried again: %v", err)
	}
	var n int
	if err := database.Read(t.Context()).QueryRow(`SELECT count(*) FROM usage WHERE name IN ('before', 'after')`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d were written, %v", n, err)
	}
}
