package storagetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// TestDatabase tests a database. fresh makes an empty one, which what it returns opens,
// again after it was closed.
func TestDatabase(t *testing.T, fresh func(testing.TB) func() (storage.Database, error)) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *database)
	}{
		{"what was written is read, also after a restart", testWritten},
		{"a write that fails undoes only itself", testFailedWrite},
		{"a write that panics undoes only itself", testPanic},
		{"a statement that fails spoils only its own write", testFailedStatement},
		{"a cancelled write does not hurt those beside it", testCancelledWrite},
		{"writes see each other's rows one after the other", testSerialWrites},
		{"a write sees what it wrote, a reader not before it returned", testIsolation},
		{"a query that finds nothing says so", testNoRows},
		{"references to rows that are not there are refused", testForeignKey},
		{"close finishes the writes that wait", testCloseWaits},
		{"a read ends when its context does", testCancelledRead},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := &database{t: t, open: fresh(t)}
			d.restart()
			t.Cleanup(func() {
				if d.Database == nil {
					return
				}
				if err := d.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(t, d)
		})
	}
}

type database struct {
	storage.Database
	t    testing.TB
	open func() (storage.Database, error)
}

func (d *database) restart() {
	d.t.Helper()
	if d.Database != nil {
		if err := d.Close(); err != nil {
			d.t.Fatalf("Close: %v", err)
		}
	}
	var err error
	if d.Database, err = d.open(); err != nil {
		d.t.Fatalf("open: %v", err)
	}
}

// insert adds a row, for which the table of repositories serves as well as any.
func insert(tx storage.Tx, name string) error {
	_, err := tx.Exec(`INSERT INTO repositories (name, created) VALUES ($1, $2)`, name, 7)
	return err
}

func (d *database) insert(ctx context.Context, name string) error {
	return d.Write(ctx, func(tx storage.Tx) error { return insert(tx, name) })
}

func names(q storage.Querier) ([]string, error) {
	rows, err := q.Query(`SELECT name FROM repositories ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []string{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		all = append(all, name)
	}
	return all, rows.Err()
}

func (d *database) wantNames(want ...string) {
	d.t.Helper()
	slices.Sort(want)
	got, err := names(d.Read(context.Background()))
	if err != nil || !slices.Equal(got, want) {
		d.t.Errorf("rows are %v, %v, want %v", got, err, want)
	}
}

var errRefused = errors.New("refused")

func testWritten(t *testing.T, d *database) {
	d.wantNames()
	for _, name := range []string{"b", "a", "c"} {
		if err := d.insert(context.Background(), name); err != nil {
			t.Fatalf("Write: %v", err)
		}
	}
	d.wantNames("a", "b", "c")
	d.restart()
	d.wantNames("a", "b", "c")
	var size int64
	var content []byte
	err := d.Write(context.Background(), func(tx storage.Tx) error {
		_, err := tx.Exec(`INSERT INTO uploads (id, repository, algorithm, size, hash, created, updated) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			"id", "a", "sha256", int64(1)<<40, []byte{0, 1, 255}, 7, 7)
		return err
	})
	if err != nil {
		t.Fatalf("Write: %v", err)
	}
	if err := d.Read(context.Background()).QueryRow(`SELECT size, hash FROM uploads WHERE id = $1`, "id").Scan(&size, &content); err != nil {
		t.Fatalf("Scan: %v", err)
	}
	if size != 1<<40 || string(content) != "\x00\x01\xff" {
		t.Errorf("read size %d and bytes %x", size, content)
	}
}

// each runs n writes at once, every one with the function that writes gives for it, and
// returns what each said. The first holds the others up until all have come, so that
// an engine that groups writes has them in one group.
func (d *database) each(n int, write func(i int) (context.Context, func(storage.Tx) error)) []error {
	errs := make([]error, n)
	var coming, all sync.WaitGroup
	held := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	coming.Add(n)
	all.Go(func() {
		coming.Done()
		ctx, f := write(0)
		errs[0] = d.Write(ctx, func(tx storage.Tx) error {
			once.Do(func() { close(held) })
			<-release
			return f(tx)
		})
	})
	<-held
	for i := 1; i < n; i++ {
		all.Go(func() {
			ctx, f := write(i)
			coming.Done()
			errs[i] = d.Write(ctx, f)
		})
	}
	coming.Wait()
	close(release)
	all.Wait()
	return errs
}

// wantAll checks what 32 writes at once of a row each did: those that bad is true for
// must fail with want and leave nothing, the others be there.
func (d *database) wantAll(bad func(i int) bool, want error, write func(i int, tx storage.Tx) error) {
	d.t.Helper()
	for round := range 5 {
		errs := d.each(32, func(i int) (context.Context, func(storage.Tx) error) {
			return context.Background(), func(tx storage.Tx) error {
				if err := insert(tx, rowName(round, i)); err != nil {
					return err
				}
				return write(i, tx)
			}
		})
		got, err := names(d.Read(context.Background()))
		if err != nil {
			d.t.Fatal(err)
		}
		for i, err := range errs {
			_, there := slices.BinarySearch(got, rowName(round, i))
			if !bad(i) {
				if err != nil || !there {
					d.t.Errorf("write %d beside a bad one: error %v, there: %t", i, err, there)
				}
				continue
			}
			if err == nil || there {
				d.t.Errorf("bad write %d: error %v, there: %t", i, err, there)
			}
			if want != nil && err != want {
				d.t.Errorf("bad write %d: error %v, want %v itself", i, err, want)
			}
		}
	}
}

func rowName(round, i int) string { return fmt.Sprintf("%02d-%02d", round, i) }

func third(i int) bool { return i%3 == 2 }

func testFailedWrite(_ *testing.T, d *database) {
	d.wantAll(third, errRefused, func(i int, _ storage.Tx) error {
		if third(i) {
			return errRefused
		}
		return nil
	})
}

func testPanic(_ *testing.T, d *database) {
	// It is left to the engine whether a panic comes out of Write or is made an error.
	d.Database = recovering{d.Database}
	d.wantAll(third, nil, func(i int, _ storage.Tx) error {
		if third(i) {
			panic("in a write")
		}
		return nil
	})
}

type recovering struct{ storage.Database }

func (r recovering) Write(ctx context.Context, f func(storage.Tx) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return r.Database.Write(ctx, f)
}

func testFailedStatement(_ *testing.T, d *database) {
	d.wantAll(third, nil, func(i int, tx storage.Tx) error {
		if third(i) {
			_, err := tx.Exec(`INSERT INTO repositories (name, created) VALUES ($1, $2)`, nil, 7)
			return err
		}
		return nil
	})
}

func testCancelledWrite(t *testing.T, d *database) {
	for round := range 5 {
		errs := d.each(32, func(i int) (context.Context, func(storage.Tx) error) {
			ctx, cancel := context.WithCancel(context.Background())
			t.Cleanup(cancel)
			if i%4 == 3 {
				cancel() // before
			}
			return ctx, func(tx storage.Tx) error {
				if i%4 == 2 {
					cancel() // in the middle
				}
				return insert(tx, rowName(round, i))
			}
		})
		got, err := names(d.Read(context.Background()))
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range errs {
			_, there := slices.BinarySearch(got, rowName(round, i))
			if there != (err == nil) {
				t.Errorf("write %d: error %v, there: %t", i, err, there)
			}
			switch i % 4 {
			case 0, 1:
				if err != nil {
					t.Errorf("write %d beside a cancelled one: %v", i, err)
				}
			case 3:
				wantError(t, "cancelled write", err, context.Canceled)
			}
		}
	}
}

func testSerialWrites(t *testing.T, d *database) {
	ctx := context.Background()
	err := d.Write(ctx, func(tx storage.Tx) error {
		_, err := tx.Exec(`INSERT INTO repositories (name, created) VALUES ($1, $2)`, "counter", 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	const writers, each = 32, 20
	var all []func() error
	for range writers {
		all = append(all, func() error {
			for range each {
				err := d.Write(ctx, func(tx storage.Tx) error {
					var n int64
					if err := tx.QueryRow(`SELECT created FROM repositories WHERE name = $1`, "counter").Scan(&n); err != nil {
						return err
					}
					_, err := tx.Exec(`UPDATE repositories SET created = $1 WHERE name = $2`, n+1, "counter")
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, err := range together(all...) {
		if err != nil {
			t.Error(err)
		}
	}
	var n int64
	if err := d.Read(ctx).QueryRow(`SELECT created FROM repositories WHERE name = $1`, "counter").Scan(&n); err != nil || n != writers*each {
		t.Errorf("counted %d, %v, want %d: writes were lost", n, err, writers*each)
	}
}

func testIsolation(t *testing.T, d *database) {
	err := d.Write(context.Background(), func(tx storage.Tx) error {
		if err := insert(tx, "a"); err != nil {
			return err
		}
		if got, err := names(tx); err != nil || !slices.Equal(got, []string{"a"}) {
			t.Errorf("the write sees %v, %v", got, err)
		}
		if got, err := names(d.Read(context.Background())); err != nil || len(got) > 0 {
			t.Errorf("a reader sees %v, %v before the commit", got, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d.wantNames("a")
}

func testNoRows(t *testing.T, d *database) {
	var name string
	const query = `SELECT name FROM repositories WHERE name = $1`
	wantError(t, "Read", d.Read(context.Background()).QueryRow(query, "a").Scan(&name), sql.ErrNoRows)
	err := d.Write(context.Background(), func(tx storage.Tx) error { return tx.QueryRow(query, "a").Scan(&name) })
	if err != sql.ErrNoRows {
		t.Errorf("Write: error %v, want %v itself", err, sql.ErrNoRows)
	}
	if err := d.Read(context.Background()).QueryRow(`SELECT nothing FROM nowhere`).Scan(&name); err == nil || errors.Is(err, sql.ErrNoRows) {
		t.Errorf("a wrong statement: error %v", err)
	}
	if rows, err := d.Read(context.Background()).Query(`SELECT nothing FROM nowhere`); err == nil {
		rows.Close()
		t.Error("a wrong statement has rows")
	}
}

func testForeignKey(t *testing.T, d *database) {
	err := d.Write(context.Background(), func(tx storage.Tx) error {
		if err := insert(tx, "a"); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO tags (repository, name, manifest, updated) VALUES ($1, $2, $3, $4)`, 1, "latest", 99, 7)
		return err
	})
	if err == nil {
		t.Error("a tag to a manifest that is not there was taken")
	}
	d.wantNames()
}

func testCloseWaits(t *testing.T, d *database) {
	const n = 32
	errs := make([]error, n)
	var all, coming sync.WaitGroup
	held := make(chan struct{})
	release := make(chan struct{})
	var once sync.Once
	all.Go(func() {
		errs[0] = d.Write(context.Background(), func(tx storage.Tx) error {
			once.Do(func() { close(held) })
			<-release
			return insert(tx, rowName(0, 0))
		})
	})
	<-held
	coming.Add(n - 1)
	for i := 1; i < n; i++ {
		all.Go(func() {
			coming.Done()
			errs[i] = d.insert(context.Background(), rowName(0, i))
		})
	}
	coming.Wait()
	closed := make(chan error)
	go func() { closed <- d.Close() }()
	d.awaitRefusal()
	close(release)
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	all.Wait()
	if err := d.insert(context.Background(), "late"); err == nil {
		t.Error("a write after Close returned nil")
	}
	var want []string
	for i, err := range errs {
		if err == nil {
			want = append(want, rowName(0, i))
		}
	}
	if errs[0] != nil {
		t.Errorf("the write that was under way: %v", errs[0])
	}
	d.Database = nil
	d.restart()
	got, err := names(d.Read(context.Background()))
	got = slices.DeleteFunc(got, func(name string) bool { return strings.HasPrefix(name, "attempt ") })
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("rows are %v, %v, want %v", got, err, want)
	}
}

// awaitRefusal returns once a write is refused, because the database is being closed,
// or after a while, since it may as well make it wait.
func (d *database) awaitRefusal() {
	refused := make(chan struct{}, 50)
	for i := range cap(refused) {
		go func() {
			if d.insert(context.Background(), fmt.Sprint("attempt ", i)) != nil {
				refused <- struct{}{}
			}
		}()
		select {
		case <-refused:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func testCancelledRead(t *testing.T, d *database) {
	if err := d.insert(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got, err := names(d.Read(ctx)); err == nil {
		t.Errorf("a cancelled read returned %s", strings.Join(got, ", "))
	}
	d.wantNames("a")
}
