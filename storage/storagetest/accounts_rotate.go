package storagetest

import (
	"context"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// rotate rotates a key, which then works until at(grace).
func (r *registry) rotate(id, successor string, grace time.Duration) error {
	r.t.Helper()
	old := r.key(id)
	next := storage.APIKey{ID: successor, Label: old.Label, Person: old.Person, Owner: old.Owner, Groups: old.Groups, Version: old.Version, Created: at(0), Expires: at(90 * day)}
	return r.Accounts().RotateKey(context.Background(), id, next, hashOf(successor), at(grace))
}

func testRotateKey(t *testing.T, r *registry) {
	person := r.signIn(somebody("alice", "a"), "secret")
	for id, test := range map[string]struct {
		key  storage.APIKey
		ends time.Duration // with a grace of an hour
	}{
		"nobody's":    {fullKey("nobody's"), hour},
		"alice's":     {keyOf(person, "alice's"), hour},
		"without end": {storage.APIKey{ID: "without end", Created: at(0)}, hour},
		"ends sooner": {storage.APIKey{ID: "ends sooner", Created: at(0), Expires: at(hour / 2)}, hour / 2},
		"ends then":   {storage.APIKey{ID: "ends then", Created: at(0), Expires: at(hour)}, hour},
	} {
		r.addKey(test.key)
		r.beginKeySession(id, "by "+id)
		old := r.key(id)
		r.wantKey(old) // and is remembered
		if err := r.rotate(id, "next of "+id, hour); err != nil {
			t.Fatalf("RotateKey: %v", err)
		}
		old.Expires, old.Successor = at(test.ends), "next of "+id
		next := storage.APIKey{
			ID: "next of " + id, Label: old.Label, Person: old.Person, Owner: old.Owner, Groups: old.Groups, Version: old.Version, Created: at(0), Expires: at(90 * day),
		}
		for range 2 {
			r.wantKey(old)
			r.wantKey(next)
			r.wantSessionBy("by "+id, id)
			r.restart()
		}
	}
	r.addKey(fullKey("no grace"))
	if err := r.rotate("no grace", "successor", 0); err != nil {
		t.Fatal(err)
	}
	r.wantEnded("no grace")
}

// testRotateAgain rotates a key several times, as a client does that never got the
// answer.
func testRotateAgain(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	r.addKey(storage.APIKey{ID: "key", Created: at(0)})
	live := func(ids ...string) {
		t.Helper()
		for _, id := range ids {
			if key := r.key(id); key.Ended(time.Now()) {
				t.Errorf("key %s has ended: %+v", id, key)
			}
		}
	}
	rotate := func(successor string, grace time.Duration) {
		t.Helper()
		if err := r.rotate("key", successor, grace); err != nil {
			t.Fatalf("RotateKey: %v", err)
		}
		live("key", successor)
		if got := r.key("key"); got.Successor != successor || !got.Expires.Equal(at(hour)) {
			t.Errorf("the rotated key is %+v, want successor %s, and no grace beyond the first", got, successor)
		}
	}
	rotate("1", hour)
	r.beginKeySession("1", "by 1")
	r.wantKey(r.key("1"))
	rotate("2", 2*hour) // nobody used 1
	r.wantEnded("1")
	r.wantNoSession("by 1")
	a.KeyUsed("2", time.Now()) // which is in memory only
	rotate("3", 3*hour)
	live("2")
	a.KeyUsed("3", time.Now())
	if err := a.FlushUsed(ctx); err != nil { // which is written
		t.Fatal(err)
	}
	rotate("4", 3*hour)
	live("2", "3")
	r.restart()
	rotate("5", 3*hour)
	live("2", "3")
	r.wantEnded("1", "4")
	if err := r.Accounts().RevokeKey(ctx, "5"); err != nil {
		t.Fatal(err)
	}
	revoked := r.key("5")
	rotate("6", 3*hour)
	r.wantKey(revoked)

	// A successor that is rotated itself ends like any key, and its own successor stays.
	if err := r.rotate("6", "6.1", hour); err != nil {
		t.Fatal(err)
	}
	rotate("7", 3*hour)
	r.wantEnded("6")
	live("6.1", "7")
}

func testRotateEnded(t *testing.T, r *registry) {
	expired, revoked := fullKey("expired"), fullKey("revoked")
	expired.Expires, revoked.Revoked = at(0), at(0)
	r.addKey(fullKey("another")) // which they say is their successor
	for _, key := range []storage.APIKey{expired, revoked} {
		r.addKey(key)
		wantError(t, "RotateKey", r.rotate(key.ID, "next", hour), storage.ErrKeyEnded)
		r.wantKey(key)
	}
	err := r.Accounts().RotateKey(context.Background(), "absent", fullKey("next"), hashOf("next"), at(hour))
	wantError(t, "RotateKey", err, storage.ErrKeyUnknown)
	r.wantNoKey("next")
	r.wantKey(fullKey("another"))
}

func testRotateToSame(t *testing.T, r *registry) {
	key, other := fullKey("key"), fullKey("other")
	key.Successor = "unused"
	unused := storage.APIKey{ID: "unused", Created: at(0)}
	for _, k := range []storage.APIKey{key, other, unused} {
		r.addKey(k)
		r.wantKey(k)
	}
	for _, id := range []string{"key", "other", "unused"} {
		if err := r.rotate("key", id, hour); err == nil {
			t.Errorf("a key was rotated to %s, which was there", id)
		}
	}
	for _, k := range []storage.APIKey{key, other, unused} {
		r.wantKey(k)
	}
}
