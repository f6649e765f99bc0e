package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/race"
)

var accountRaceTests = []registryTest{
	{"a key and its sessions are never as they were before a change that is done", raceGroups},
	{"a key that was ended lets nobody in once that is done", raceEndAndReads},
	{"nothing lets in who was ended, whatever went on at the same time", raceEndPerson},
	{"of many who rotate a key at once one has the successor", raceRotations},
	{"a key is rotated or revoked first", raceRotateAndRevoke},
	{"of many who begin a refresh one does", raceBeginRefresh},
	{"who signs in many times at once is one person", raceSignIn},
	{"no use of a key is lost, and none goes back", raceUsed},
	{"of many who add a signing key one does", raceAddSigningKey},
}

// reading runs n goroutines that read again and again until the function that it returns
// is called, or one of them fails.
func reading(t *testing.T, n int, read func() error) (stop func()) {
	finished := make(chan struct{})
	var readers sync.WaitGroup
	for range n {
		readers.Go(func() {
			for {
				select {
				case <-finished:
					return
				default:
				}
				if err := read(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		close(finished)
		readers.Wait()
	})
}

// raceGroups gives a person one group after the other, numbered, while many read. A read
// that began after a change was done must give that or a later one.
func raceGroups(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	p := somebody("alice", "0")
	person := r.signIn(p, "alice's")
	r.addKey(keyOf(person, "key"))
	r.beginKeySession("key", "by key")
	var begun, done atomic.Int64
	check := func(what string, groups []string, oldest int64) error {
		var n int64
		if len(groups) != 1 {
			return fmt.Errorf("%s has groups %q", what, groups)
		}
		if _, err := fmt.Sscan(groups[0], &n); err != nil || n < oldest || n > begun.Load() {
			return fmt.Errorf("%s has group %q, %v, want %d to %d", what, groups[0], err, oldest, begun.Load())
		}
		return nil
	}
	var readers []func()
	for how, find := range finders {
		readers = append(readers, reading(t, 2, func() error {
			oldest := done.Load()
			key, err := find(a)
			if err != nil {
				return err
			}
			return check(how, key.Groups, oldest)
		}))
	}
	readers = append(readers, reading(t, 1, func() error {
		oldest := done.Load()
		s, err := a.Session(ctx, hashOf("alice's"), at(0))
		if err != nil {
			return err
		}
		return check("Session", s.Person.Groups, oldest)
	}), reading(t, 1, func() error {
		// What has nothing to do with the key makes all be forgotten, at any moment.
		err := a.RevokeKey(ctx, "absent")
		if errors.Is(err, storage.ErrKeyUnknown) {
			return nil
		}
		return fmt.Errorf("revoking what is not there: %w", err)
	}))
	for i := int64(1); i < int64(max(20, race.Rounds(60))); i++ {
		begun.Store(i)
		p.Groups = []string{fmt.Sprint(i)}
		var err error
		if i%2 == 0 {
			err = a.FinishRefresh(ctx, person.ID, always, p.Name, p.Groups, nil)
		} else {
			_, err = a.SignIn(ctx, p, hashOf(fmt.Sprint(i)), storage.Session{Expires: at(hour)})
		}
		if err != nil {
			t.Error(err)
			break
		}
		done.Store(i)
	}
	for _, stop := range readers {
		stop()
	}
}

// raceEndAndReads ends one key after the other while many look for it.
func raceEndAndReads(t *testing.T, r *registry) {
	for range rounds / 3 {
		for _, test := range changes {
			alice := r.prepareChange()
			a := r.Accounts()
			var done atomic.Bool
			stop := reading(t, 4, func() error {
				if done.Load() {
					return checkChanged(a, test.want)
				}
				for _, find := range finders {
					_, _ = find(a)
				}
				return nil
			})
			if err := test.do(a, alice); err != nil {
				t.Errorf("%s: %v", test.what, err)
			}
			done.Store(true)
			if err := checkChanged(a, test.want); err != nil {
				t.Errorf("after %s: %v", test.what, err)
			}
			stop()
		}
	}
}

// raceEndPerson ends a person while requests are under way that would let them in.
func raceEndPerson(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	for round := range rounds {
		name := func(of string) string { return fmt.Sprintf("%s %d", of, round) }
		p := somebody(name("alice"), "a")
		alice := r.signIn(p, name("alice's"))
		for _, id := range []string{"rotated", "used", "revoked"} {
			r.addKey(keyOf(alice, name(id)))
		}
		next, late := keyOf(alice, name("next")), keyOf(alice, name("late"))
		s := storage.Session{Created: at(0), Expires: at(day)}
		what := []string{"EndPerson", "AddKey", "RotateKey", "BeginKeySession", "BeginKeySession", "FinishRefresh", "RevokeKey", "Session", "KeyByHash"}
		errs := together(
			func() error { return second(a.EndPerson(ctx, alice.ID, always)) },
			func() error { return a.AddKey(ctx, late, hashOf(late.ID)) },
			func() error { return a.RotateKey(ctx, name("rotated"), next, hashOf(next.ID), at(hour)) },
			func() error { return a.BeginKeySession(ctx, name("rotated"), hashOf(name("by rotated")), s) },
			func() error { return a.BeginKeySession(ctx, name("used"), hashOf(name("by used")), s) },
			func() error { return a.FinishRefresh(ctx, alice.ID, always, "Alice", nil, []byte("another token")) },
			func() error { return a.RevokeKey(ctx, name("revoked")) },
			func() error { return second(a.Session(ctx, hashOf(name("alice's")), at(0))) },
			func() error { return second(a.KeyByHash(ctx, hashOf(name("used")))) },
		)
		for i, err := range errs {
			allowed := []error{nil, storage.ErrSessionUnknown, storage.ErrKeyEnded, storage.ErrKeyUnknown}
			if !slices.ContainsFunc(allowed, func(e error) bool { return errors.Is(err, e) }) {
				t.Errorf("%s: %v", what[i], err)
			}
		}
		keys, err := a.KeysOf(ctx, alice.ID)
		if err != nil || len(keys) < 3 {
			t.Errorf("KeysOf = %+v, %v", keys, err)
		}
		for _, key := range keys {
			if key.Revoked.IsZero() {
				t.Errorf("key %s of a person who was ended is not revoked", key.ID)
			}
			r.wantEnded(key.ID)
		}
		r.wantNoSession(name("alice's"), name("by rotated"), name("by used"))
		if person, err := a.Person(ctx, alice.ID); err != nil || person.RefreshToken != nil {
			t.Errorf("Person = %+v, %v, want no refresh token", person, err)
		}
	}
}

func raceRotations(t *testing.T, r *registry) {
	const n = 8
	for round := range rounds {
		key := fmt.Sprint("key ", round)
		r.addKey(storage.APIKey{ID: key, Created: at(0)})
		var all []func() error
		for i := range n {
			next := storage.APIKey{ID: fmt.Sprintf("%s, %d", key, i), Created: at(0), Expires: at(day)}
			all = append(all, func() error {
				return r.Accounts().RotateKey(context.Background(), key, next, hashOf(next.ID), at(hour))
			})
		}
		for _, err := range together(all...) {
			if err != nil {
				t.Errorf("RotateKey: %v", err)
			}
		}
		rotated := r.key(key)
		if rotated.Ended(at(0)) || !rotated.Expires.Equal(at(hour)) {
			t.Errorf("the rotated key is %+v, want it in its grace", rotated)
		}
		for i := range n {
			next := r.key(fmt.Sprintf("%s, %d", key, i))
			if live := next.Revoked.IsZero(); live != (rotated.Successor == next.ID) {
				t.Errorf("of %d rotations to %s, key %s is live: %t", n, rotated.Successor, next.ID, live)
			}
		}
	}
}

func raceRotateAndRevoke(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	for round := range rounds {
		key, next := fmt.Sprint("key ", round), fmt.Sprint("next ", round)
		r.addKey(storage.APIKey{ID: key, Created: at(0)})
		errs := together(
			func() error {
				return a.RotateKey(ctx, key, storage.APIKey{ID: next, Created: at(0)}, hashOf(next), at(hour))
			},
			func() error { return a.RevokeKey(ctx, key) },
		)
		if errs[1] != nil {
			t.Errorf("RevokeKey: %v", errs[1])
		}
		r.wantEnded(key)
		if errs[0] == nil {
			r.wantKey(storage.APIKey{ID: next, Created: at(0)})
			continue
		}
		wantError(t, "RotateKey", errs[0], storage.ErrKeyEnded)
		r.wantNoKey(next)
	}
}

func raceBeginRefresh(t *testing.T, r *registry) {
	p := somebody("alice")
	id := r.signIn(p, "secret").ID
	for round := range rounds {
		person := r.wantPerson(id, p)
		var began atomic.Int64
		var all []func() error
		for range 8 {
			all = append(all, func() error {
				mine, err := r.Accounts().BeginRefresh(context.Background(), *person, at(time.Duration(round+1)*hour))
				if mine {
					began.Add(1)
				}
				return err
			})
		}
		for _, err := range together(all...) {
			if err != nil {
				t.Errorf("BeginRefresh: %v", err)
			}
		}
		if began.Load() != 1 {
			t.Errorf("%d began a refresh at once", began.Load())
		}
	}
}

func raceSignIn(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	for round := range rounds {
		const n = 8
		people := make([]*storage.Person, n)
		var all []func() error
		for i := range n {
			p := somebody(fmt.Sprint("alice ", round), fmt.Sprint(i))
			all = append(all, func() (err error) {
				people[i], err = a.SignIn(ctx, p, hashOf(fmt.Sprintf("%d, %d", round, i)), storage.Session{Expires: at(day)})
				return err
			})
		}
		for i, err := range together(all...) {
			if err != nil {
				t.Fatalf("SignIn: %v", err)
			}
			if people[i].ID != people[0].ID || !slices.Equal(people[i].Groups, []string{fmt.Sprint(i)}) {
				t.Errorf("SignIn = %+v, want person %d with group %d", people[i], people[0].ID, i)
			}
			r.wantSessionOf(fmt.Sprintf("%d, %d", round, i), people[0].ID)
		}
		last, err := a.Person(ctx, people[0].ID)
		if err != nil || !slices.ContainsFunc(people, func(p *storage.Person) bool { return slices.Equal(p.Groups, last.Groups) }) {
			t.Errorf("Person = %+v, %v, want one of those who signed in", last, err)
		}
	}
}

// raceUsed uses keys while what is known of that is written, and read: a read that began
// after a use must tell of that or a later one.
func raceUsed(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	ids := []string{"a", "b", "c"}
	var done [3]atomic.Int64 // the last use of each
	for _, id := range ids {
		r.addKey(storage.APIKey{ID: id, Created: at(0)})
	}
	flush := reading(t, 2, func() error { return a.FlushUsed(ctx) })
	read := reading(t, 2, func() error {
		var oldest [3]int64
		for i := range ids {
			oldest[i] = done[i].Load()
		}
		keys, err := a.Keys(ctx)
		if err != nil || len(keys) != len(ids) {
			return fmt.Errorf("keys are %+v, %w", keys, err)
		}
		for i, key := range keys {
			if key.LastUsed.Before(at(time.Duration(oldest[i])*time.Second)) && oldest[i] > 0 {
				return fmt.Errorf("key %s was last used %s, want %d s or later", key.ID, key.LastUsed.Sub(began), oldest[i])
			}
		}
		return nil
	})
	n := int64(max(1000, race.Rounds(20_000)))
	var users []func() error
	for i, id := range ids {
		for clock := range int64(2) { // one is behind
			users = append(users, func() error {
				for use := int64(1); use <= n; use++ {
					a.KeyUsed(id, at(time.Duration(use-100*clock)*time.Second))
					if clock == 0 {
						done[i].Store(use)
					}
				}
				return nil
			})
		}
	}
	together(users...)
	flush()
	read()
	if err := a.FlushUsed(ctx); err != nil {
		t.Fatal(err)
	}
	for _, accounts := range []*storage.Accounts{a, storage.NewAccounts(r.database)} {
		for _, id := range ids {
			r.wantLastUsed(accounts, id, at(time.Duration(n)*time.Second))
		}
	}
}

func raceAddSigningKey(t *testing.T, r *registry) {
	for round := range rounds {
		created := at(time.Duration(round) * hour)
		var added atomic.Int64
		var all []func() error
		for i := range 8 {
			key := storage.SigningKey{ID: fmt.Sprintf("%d, %d", round, i), Created: created, Sealed: []byte{1}}
			all = append(all, func() error {
				mine, err := r.Accounts().AddSigningKey(context.Background(), key, created)
				if mine {
					added.Add(1)
				}
				return err
			})
		}
		for _, err := range together(all...) {
			if err != nil {
				t.Errorf("AddSigningKey: %v", err)
			}
		}
		keys, err := r.Accounts().SigningKeys(context.Background())
		if err != nil || added.Load() != 1 || len(keys) != round+1 {
			t.Errorf("%d keys were added at once: %d keys, %v", added.Load(), len(keys), err)
		}
	}
}
