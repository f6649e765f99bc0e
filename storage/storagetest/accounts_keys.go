package storagetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

var keyTests = []registryTest{
	{"an API key is kept with all that is said of it, also after a restart", testAddKey},
	{"a key is found by its own hash and id only", testKeyUnknown},
	{"a key is not added twice", testSameKey},
	{"a key of a person is as the person is now", testKeyOfPerson},
	{"a key ends at the second that it says", testKeyEnds},
	{"a revoked key stays, and lets nobody in", testRevokeKey},
	{"keys are listed with the newest first, and a person's apart", testListKeys},
	{"a rotated key works until the grace is over", testRotateKey},
	{"a key that is rotated again loses a successor that nobody used", testRotateAgain},
	{"a key that has ended is not rotated", testRotateEnded},
	{"a successor that cannot be added changes nothing", testRotateToSame},
	{"when a key was used is known at once, and written with others", testKeyUsed},
	{"what of a key's use cannot be written is kept", testFlushFails},
	{"a key is not remembered as it was before a change", testNotStale},
	{"what another process changed is known at once where a database is shared", testSharedAccounts},
}

// fullKey is a key, without a person, of which everything is set.
func fullKey(id string) storage.APIKey {
	return storage.APIKey{
		ID: id, Label: "label of " + id, Owner: "alice", Groups: []string{"b", "a"}, Scopes: []string{"read:a/**", "update:b"}, Job: "ci", Version: "of ci",
		Created: at(-hour), Expires: at(day), LastUsed: at(-time.Minute), Lifetime: day + time.Second, Successor: "another",
	}
}

func testAddKey(t *testing.T, r *registry) {
	full, revoked := fullKey("full"), fullKey("revoked")
	revoked.Revoked = at(-time.Second)
	keys := []storage.APIKey{full, revoked, {ID: "bare", Created: at(0)}, {ID: "owner", Owner: "bob", Created: at(0)}}
	for _, key := range keys {
		r.addKey(key)
	}
	precise := fullKey("precise") // than what is kept
	precise.Created, precise.Expires = precise.Created.Add(999*time.Millisecond), precise.Expires.Add(time.Nanosecond)
	precise.Lifetime += 999 * time.Millisecond
	r.addKey(precise)
	precise = fullKey("precise")
	for range 2 {
		for _, key := range append(keys, precise) {
			r.wantKey(key)
		}
		r.restart()
	}
}

func testKeyUnknown(t *testing.T, r *registry) {
	r.wantNoKey("key")
	wantError(t, "RevokeKey", r.Accounts().RevokeKey(context.Background(), "key"), storage.ErrKeyUnknown)
	r.addKey(storage.APIKey{ID: "key", Created: at(0)})
	r.wantKey(storage.APIKey{ID: "key", Created: at(0)})
	for _, id := range []string{"", "ke", "key ", "KEY", "k%"} {
		r.wantNoKey(id)
	}
	hash := hashOf("key")
	hash[31]++
	wantError(t, "KeyByHash", second(r.Accounts().KeyByHash(context.Background(), hash)), storage.ErrKeyUnknown)
}

func testSameKey(t *testing.T, r *registry) {
	r.addKey(fullKey("key"))
	ctx, a := context.Background(), r.Accounts()
	if a.AddKey(ctx, storage.APIKey{ID: "key"}, hashOf("other")) == nil {
		t.Error("an id was taken twice")
	}
	if a.AddKey(ctx, storage.APIKey{ID: "other"}, hashOf("key")) == nil {
		t.Error("a hash was taken twice")
	}
	r.wantKey(fullKey("key"))
	r.wantNoKey("other")
}

func testKeyOfPerson(t *testing.T, r *registry) {
	ctx := context.Background()
	p := somebody("alice", "a")
	person := r.signIn(p, "0")
	bob := r.signIn(somebody("bob", "b"), "bob's")
	key, bobs, nobodys := keyOf(person, "key"), keyOf(bob, "bob's"), fullKey("nobody's")
	for _, k := range []storage.APIKey{key, bobs} {
		k.Owner, k.Groups = "root", []string{"admins"} // which is not looked at
		r.addKey(k)
	}
	r.addKey(nobodys)
	bobs.Owner, bobs.Groups, bobs.Version = "bob@example.com", []string{"b"}, version
	r.beginKeySession("key", "by key")
	for i, groups := range [][]string{{"a"}, {"a", "b"}, {"b", "a"}, nil, {"a"}} {
		p.Groups, p.Name = groups, fmt.Sprint("Alice ", i/2)
		if i%2 == 0 {
			r.signIn(p, fmt.Sprint(i+1))
		} else if err := r.Accounts().FinishRefresh(ctx, person.ID, always, p.Name, p.Groups, nil); err != nil {
			t.Fatal(err)
		}
		key.Owner, key.Groups, key.Version = p.Name, p.Groups, version
		r.wantKey(key)
		r.wantKey(bobs)
		r.wantKey(nobodys)
		if s, err := r.session("by key"); err != nil || !reflect.DeepEqual(*s.Key, key) {
			t.Errorf("the key's session is %+v, %v, want one of %+v", s, err, key)
		}
	}
	r.restart()
	r.wantKey(key)
}

func testKeyEnds(t *testing.T, r *registry) {
	for _, test := range []struct {
		key  storage.APIKey
		now  time.Time
		want bool
	}{
		{storage.APIKey{}, at(0), false},
		{storage.APIKey{Expires: at(0)}, at(-1), false},
		{storage.APIKey{Expires: at(0)}, at(0), true},
		{storage.APIKey{Expires: at(0)}, at(1), true},
		{storage.APIKey{Revoked: at(0)}, at(0), true},
		{storage.APIKey{Revoked: at(0)}, at(-hour), true},
		{storage.APIKey{Revoked: at(0), Expires: at(day)}, at(0), true},
	} {
		if got := test.key.Ended(test.now); got != test.want {
			t.Errorf("a key that expires %s, was revoked %s: Ended(%s) = %t", test.key.Expires, test.key.Revoked, test.now, got)
		}
	}
	key := storage.APIKey{ID: "key", Created: at(0), Expires: at(hour)}
	r.addKey(key)
	r.beginKeySession("key", "by key")
	for now, want := range map[time.Duration]bool{0: true, hour - 1: true, hour: false, hour + 1: false, 2 * hour: false} {
		_, err := r.Accounts().Session(context.Background(), hashOf("by key"), at(now))
		if want != (err == nil) || err != nil && !errors.Is(err, storage.ErrSessionUnknown) {
			t.Errorf("the key's session after %s: %v, want it there: %t", now, err, want)
		}
	}
}

func testRevokeKey(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	key, other := fullKey("key"), fullKey("other")
	r.addKey(key)
	r.addKey(other)
	r.beginKeySession("key", "by key")
	r.beginKeySession("other", "by other")
	r.wantKey(key)
	r.wantSessionBy("by key", "key")
	before := time.Now().Unix()
	if err := a.RevokeKey(ctx, "key"); err != nil {
		t.Fatalf("RevokeKey: %v", err)
	}
	if key.Revoked = r.key("key").Revoked; key.Revoked.Unix() < before || key.Revoked.After(time.Now()) {
		t.Errorf("the key was revoked at %s, want now", key.Revoked)
	}
	revoked := fullKey("revoked before")
	revoked.Revoked = at(-hour)
	r.addKey(revoked)
	for range 2 {
		for _, k := range []storage.APIKey{key, revoked} {
			if err := r.Accounts().RevokeKey(ctx, k.ID); err != nil { // again changes nothing
				t.Errorf("RevokeKey: %v", err)
			}
			r.wantKey(k)
			r.wantEnded(k.ID)
		}
		r.wantNoSession("by key")
		r.wantKey(other)
		r.wantSessionBy("by other", "other")
		r.restart()
	}
	r.beginKeySession("key", "late") // as a request does that was under way
	r.wantNoSession("late")
}

func testListKeys(t *testing.T, r *registry) {
	person := r.signIn(somebody("alice", "a"), "alice's")
	bob := r.signIn(somebody("bob"), "bob's")
	add := func(key storage.APIKey, created time.Duration) {
		key.Created = at(created)
		r.addKey(key)
	}
	want := func(what string, keys []storage.APIKey, err error, want ...string) {
		t.Helper()
		var got []string
		for _, key := range keys {
			got = append(got, key.ID)
			if one := r.key(key.ID); !reflect.DeepEqual(key, one) {
				t.Errorf("%s has %+v, Key is %+v", what, key, one)
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s are %q, %v, want %q", what, got, err, want)
		}
	}
	keys, err := r.Accounts().Keys(context.Background())
	want("no keys", keys, err)
	add(keyOf(person, "b"), -2*hour)
	add(keyOf(person, "c"), -hour)
	add(keyOf(person, "a"), -2*hour)
	add(keyOf(bob, "d"), -hour)
	add(fullKey("e"), 0)
	if err := r.Accounts().RevokeKey(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	keys, err = r.Accounts().Keys(context.Background())
	want("all keys", keys, err, "e", "c", "d", "a", "b")
	keys, err = r.Accounts().KeysOf(context.Background(), person.ID)
	want("alice's keys", keys, err, "c", "a", "b")
	keys, err = r.Accounts().KeysOf(context.Background(), bob.ID)
	want("bob's keys", keys, err, "d")
	keys, err = r.Accounts().KeysOf(context.Background(), 0)
	want("a person's who is none", keys, err)
}
