package storagetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// wantUsed checks when a key was last used, in all that tells it.
func (r *registry) wantUsed(a *storage.Accounts, id string, want time.Time) {
	r.t.Helper()
	ctx := context.Background()
	key, err := a.Key(ctx, id)
	if err != nil {
		r.t.Fatalf("Key: %v", err)
	}
	all, errAll := a.Keys(ctx)
	persons, errPersons := a.KeysOf(ctx, key.Person)
	if err := errors.Join(errAll, errPersons); err != nil {
		r.t.Fatal(err)
	}
	seen := 0
	for _, k := range append(append(all, persons...), *key) {
		if k.ID != id {
			continue
		}
		if seen++; !k.LastUsed.Equal(want) {
			r.t.Errorf("key %s was last used %s, want %s", id, k.LastUsed, want)
		}
	}
	if seen != 3 {
		r.t.Errorf("key %s was listed %d times, want 3", id, seen)
	}
	found, err := a.KeyByID(ctx, id)
	if err != nil || !found.LastUsed.IsZero() {
		r.t.Errorf("KeyByID = %+v, %v, want it without its last use", found, err)
	}
}

func testKeyUsed(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	database := &counting{Database: r.database}
	counted := storage.NewAccounts(database)
	person := r.signIn(somebody("alice"), "secret")
	for _, id := range []string{"a", "b", "c"} {
		r.addKey(keyOf(person, id))
	}
	if err := counted.FlushUsed(ctx); err != nil || database.writes != 0 {
		t.Errorf("FlushUsed of nothing: %v, %d writes", err, database.writes)
	}
	for _, step := range []struct{ used, want time.Duration }{
		{hour, hour}, {2 * hour, 2 * hour}, {hour, 2 * hour}, {2 * hour, 2 * hour}, {2*hour + time.Second - 1, 2 * hour}, {3 * hour, 3 * hour},
	} {
		counted.KeyUsed("a", at(step.used))
		r.wantUsed(counted, "a", at(step.want))
		r.wantUsed(counted, "b", time.Time{})
		r.wantUsed(a, "a", time.Time{}) // which does not know yet
	}
	counted.KeyUsed("b", at(hour))
	counted.KeyUsed("gone", at(hour)) // as one is that was removed meanwhile
	for range 2 {
		if err := counted.FlushUsed(ctx); err != nil || database.writes != 1 {
			t.Errorf("FlushUsed: %v, %d writes, want all in one", err, database.writes)
		}
		for _, accounts := range []*storage.Accounts{counted, a} {
			r.wantUsed(accounts, "a", at(3*hour))
			r.wantUsed(accounts, "b", at(hour))
			r.wantUsed(accounts, "c", time.Time{})
		}
	}
	a.KeyUsed("a", at(2*hour)) // by another process, whose clock is behind
	a.KeyUsed("b", at(2*hour))
	if err := a.FlushUsed(ctx); err != nil {
		t.Fatal(err)
	}
	r.wantUsed(counted, "a", at(3*hour))
	r.wantUsed(counted, "b", at(2*hour))
	r.wantNoKey("gone")
	r.restart()
	r.wantUsed(r.Accounts(), "a", at(3*hour))
	r.wantUsed(r.Accounts(), "b", at(2*hour))
}

// counting is a database that counts its writes, and can refuse them.
type counting struct {
	storage.Database
	writes int
	err    error
}

func (c *counting) Write(ctx context.Context, f func(storage.Tx) error) error {
	c.writes++
	return c.Database.Write(ctx, func(tx storage.Tx) error { return errors.Join(f(tx), c.err) })
}

func testFlushFails(t *testing.T, r *registry) {
	ctx := context.Background()
	database := &counting{Database: r.database}
	a := storage.NewAccounts(database)
	r.addKey(storage.APIKey{ID: "key", Created: at(0)})
	a.KeyUsed("key", at(hour))
	database.err = errRefused
	for range 2 {
		wantError(t, "FlushUsed", a.FlushUsed(ctx), errRefused)
		r.wantLastUsed(a, "key", at(hour))
		r.wantLastUsed(r.Accounts(), "key", time.Time{})
	}
	a.KeyUsed("key", at(2*hour))
	r.wantLastUsed(a, "key", at(2*hour))
	database.err = nil
	if err := a.FlushUsed(ctx); err != nil {
		t.Fatal(err)
	}
	r.wantLastUsed(a, "key", at(2*hour))
	r.wantLastUsed(r.Accounts(), "key", at(2*hour))
}

// wantLastUsed checks when a key was last used.
func (r *registry) wantLastUsed(a *storage.Accounts, id string, want time.Time) {
	r.t.Helper()
	if key, err := a.Key(context.Background(), id); err != nil || !key.LastUsed.Equal(want) {
		r.t.Errorf("Key %s = %+v, %v, want last used %s", id, key, err, want)
	}
}
