package storagetest

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

var sessionTests = []registryTest{
	{"a session is a person's or a key's, also after a restart", testSession},
	{"a session is found by its own secret only", testSessionUnknown},
	{"a session ends at the second that it says", testSessionEnds},
	{"a session that is ended leaves the others", testEndSession},
	{"a session is not begun twice, or by a key that is not there", testBeginKeySession},
	{"sessions that are over and keys that ended long ago are removed, and nothing else", testExpireAccounts},
	{"signing keys are listed with the newest first, also after a restart", testSigningKeys},
	{"a signing key is added unless there is one that is young", testAddSigningKey},
}

func testSession(t *testing.T, r *registry) {
	ctx := context.Background()
	p := somebody("alice", "a")
	want := map[string]storage.Session{
		"alice's":        {Created: at(-hour), Expires: at(hour), IDToken: []byte{0, 1, 255}},
		"without token":  {Created: at(-hour), Expires: at(hour)},
		"by key":         {Created: at(-hour), Expires: at(hour), IDToken: []byte("of a key")},
		"by alice's key": {Created: at(0), Expires: at(day)},
	}
	for secret, s := range want {
		if secret[:2] == "by" {
			continue
		}
		s.Created, s.Expires = s.Created.Add(time.Second-1), s.Expires.Add(time.Second-1) // more precise than what is kept
		s.Key = &storage.APIKey{ID: "not looked at"}
		person, err := r.Accounts().SignIn(ctx, p, hashOf(secret), s)
		if err != nil {
			t.Fatalf("SignIn: %v", err)
		}
		p.ID, p.Refreshed, p.Asked = person.ID, person.Refreshed, person.Asked
	}
	keys := map[string]storage.APIKey{"by key": fullKey("key"), "by alice's key": keyOf(&p, "alice's key")}
	for secret, key := range keys {
		r.addKey(key)
		s := want[secret]
		s.Person = &storage.Person{ID: 99, Name: "not looked at"}
		if err := r.Accounts().BeginKeySession(ctx, key.ID, hashOf(secret), s); err != nil {
			t.Fatalf("BeginKeySession: %v", err)
		}
	}
	for range 2 {
		for secret, s := range want {
			if key, ok := keys[secret]; ok {
				if key.LastUsed = (time.Time{}); key.Person != 0 {
					key.Owner, key.Groups, key.Version = p.Name, p.Groups, version
				}
				s.Key = &key
			} else {
				s.Person = &p
			}
			for range 2 {
				if got, err := r.session(secret); err != nil || !reflect.DeepEqual(*got, s) {
					t.Errorf("session %s is %+v, %v, want %+v", secret, got, err, s)
				}
			}
		}
		r.restart()
	}
}

func testSessionUnknown(t *testing.T, r *registry) {
	r.wantNoSession("secret")
	person := r.signIn(somebody("alice"), "secret")
	r.addKey(keyOf(person, "key"))
	r.wantSessionOf("secret", person.ID)
	r.wantNoSession("", "Secret", "key") // a key's hash is none of a session
	hash := hashOf("secret")
	hash[0]++
	wantError(t, "Session", second(r.Accounts().Session(context.Background(), hash, at(0))), storage.ErrSessionUnknown)
	wantError(t, "KeyByHash", second(r.Accounts().KeyByHash(context.Background(), hashOf("secret"))), storage.ErrKeyUnknown)
}

func testSessionEnds(t *testing.T, r *registry) {
	r.signInUntil(somebody("alice"), "person's", at(hour))
	r.addKey(storage.APIKey{ID: "key", Created: at(0)})
	err := r.Accounts().BeginKeySession(context.Background(), "key", hashOf("key's"), storage.Session{Created: at(0), Expires: at(hour)})
	if err != nil {
		t.Fatal(err)
	}
	r.signInUntil(somebody("bob"), "never there", time.Time{}) // that is no session without an end
	r.wantNoSession("never there")
	for now, want := range map[time.Duration]bool{-day: true, 0: true, hour - 1: true, hour: false, hour + 1: false, day: false} {
		for _, secret := range []string{"person's", "key's"} {
			_, err := r.Accounts().Session(context.Background(), hashOf(secret), at(now))
			if want != (err == nil) || err != nil && !errors.Is(err, storage.ErrSessionUnknown) {
				t.Errorf("session %s after %s: %v, want it there: %t", secret, now, err, want)
			}
		}
	}
}

func testEndSession(t *testing.T, r *registry) {
	person := r.signIn(somebody("alice"), "1")
	r.signIn(somebody("alice"), "2")
	r.addKey(storage.APIKey{ID: "key", Created: at(0)})
	r.beginKeySession("key", "by key")
	r.beginKeySession("key", "by key too")
	for _, secret := range []string{"1", "by key", "1", "absent"} {
		if err := r.Accounts().EndSession(context.Background(), hashOf(secret)); err != nil {
			t.Errorf("EndSession: %v", err)
		}
	}
	for range 2 {
		r.wantNoSession("1", "by key")
		r.wantSessionOf("2", person.ID)
		r.wantSessionBy("by key too", "key")
		r.wantKey(storage.APIKey{ID: "key", Created: at(0)})
		r.restart()
	}
}

func testBeginKeySession(t *testing.T, r *registry) {
	ctx, a, s := context.Background(), r.Accounts(), storage.Session{Created: at(0), Expires: at(day)}
	person := r.signIn(somebody("alice"), "secret")
	wantError(t, "BeginKeySession", a.BeginKeySession(ctx, "absent", hashOf("by absent"), s), storage.ErrKeyUnknown)
	wantError(t, "BeginKeySession", a.BeginKeySession(ctx, "", hashOf("by absent"), s), storage.ErrKeyUnknown)
	r.wantNoSession("by absent")
	r.addKey(fullKey("key"))
	if a.BeginKeySession(ctx, "key", hashOf("secret"), s) == nil {
		t.Error("a session was begun twice")
	}
	r.wantSessionOf("secret", person.ID)
	ended := fullKey("ended")
	ended.Expires = at(-hour)
	r.addKey(ended)
	r.beginKeySession("ended", "by ended")
	r.wantNoSession("by ended")
}

// testExpireAccounts looks at what is kept in the second before each thing is removed, and
// in that one.
func testExpireAccounts(t *testing.T, r *registry) {
	ctx := context.Background()
	const kept, never = 90*day + time.Second, 9999 * day
	sessions := map[string]time.Duration{ // when they are removed
		"until 1h": hour, "until 2h": 2 * hour, "until 999d": 999 * day, "by no end": never, "by until 20d": 20*day + kept,
	}
	keys := map[string]time.Duration{
		"no end": never, "until 10d": 10*day + kept, "until 20d": 20*day + kept, "successor": never,
		"revoked 40d": 40*day + kept, "revoked 50d, until 60d": 50*day + kept, "revoked 60d, until 50d": 50*day + kept,
	}
	p := somebody("alice", "a")
	person := r.signInUntil(p, "until 1h", at(hour))
	r.signInUntil(p, "until 2h", at(2*hour))
	r.signInUntil(p, "until 999d", at(999*day))
	for id, ends := range map[string]struct{ expires, revoked time.Time }{
		"no end": {}, "until 10d": {at(10 * day), time.Time{}}, "until 20d": {at(20 * day), time.Time{}}, "successor": {at(never), time.Time{}},
		"revoked 40d": {time.Time{}, at(40 * day)}, "revoked 50d, until 60d": {at(60 * day), at(50 * day)}, "revoked 60d, until 50d": {at(50 * day), at(60 * day)},
	} {
		key := keyOf(person, id)
		key.Expires, key.Revoked, key.Successor = ends.expires, ends.revoked, "successor"
		r.addKey(key)
	}
	for _, id := range []string{"no end", "until 20d"} {
		if err := r.Accounts().BeginKeySession(ctx, id, hashOf("by "+id), storage.Session{Expires: at(never)}); err != nil {
			t.Fatal(err)
		}
	}
	signing := storage.SigningKey{ID: "old", Created: at(-999 * day), Sealed: []byte{1}}
	if _, err := r.Accounts().AddSigningKey(ctx, signing, at(0)); err != nil {
		t.Fatal(err)
	}
	for _, removed := range []time.Duration{0, hour, 2 * hour, 10*day + kept, 20*day + kept, 40*day + kept, 50*day + kept, 999 * day} {
		for _, now := range []time.Duration{removed - time.Second, removed} {
			if err := r.Accounts().ExpireAccounts(ctx, at(now)); err != nil {
				t.Fatalf("ExpireAccounts: %v", err)
			}
			for secret, gone := range sessions {
				s, err := r.Accounts().Session(ctx, hashOf(secret), at(-day))
				if (now < gone) != (err == nil) {
					t.Errorf("after %s session %s is %+v, %v", now, secret, s, err)
				}
			}
			for id, gone := range keys {
				if now < gone {
					r.wantKey(r.key(id))
				} else {
					r.wantNoKey(id)
				}
			}
		}
	}
	r.wantPerson(person.ID, p)
	if keys, err := r.Accounts().SigningKeys(ctx); err != nil || len(keys) != 1 {
		t.Errorf("SigningKeys = %v, %v, want the one that was added", keys, err)
	}
}

func testSigningKeys(t *testing.T, r *registry) {
	ctx := context.Background()
	want := func(want ...storage.SigningKey) {
		t.Helper()
		got, err := r.Accounts().SigningKeys(ctx)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("SigningKeys = %+v, %v, want %+v", got, err, want)
		}
	}
	want()
	keys := map[string]storage.SigningKey{}
	for id, created := range map[string]time.Duration{"b": 0, "a": 0, "new": hour, "old": -hour} {
		key := storage.SigningKey{ID: id, Created: at(created), Sealed: append([]byte{0, 255}, id...)}
		added, err := r.Accounts().AddSigningKey(ctx, key, at(day))
		if err != nil || !added {
			t.Fatalf("AddSigningKey = %t, %v", added, err)
		}
		keys[id] = key
	}
	for range 2 {
		want(keys["new"], keys["a"], keys["b"], keys["old"])
		r.restart()
	}
	for _, step := range []struct {
		before time.Duration
		want   []string
	}{
		{-hour, []string{"new", "a", "b", "old"}},
		{-hour + time.Second, []string{"new", "a", "b"}},
		{0, []string{"new", "a", "b"}},
		{time.Second, []string{"new"}},
		{day, nil},
		{day, nil},
	} {
		if err := r.Accounts().DeleteSigningKeys(ctx, at(step.before)); err != nil {
			t.Errorf("DeleteSigningKeys: %v", err)
		}
		var left []storage.SigningKey
		for _, id := range step.want {
			left = append(left, keys[id])
		}
		want(left...)
	}
}

func testAddSigningKey(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	add := func(id string, created, unlessSince time.Duration, want bool) {
		t.Helper()
		added, err := a.AddSigningKey(ctx, storage.SigningKey{ID: id, Created: at(created), Sealed: []byte(id)}, at(unlessSince))
		if err != nil || added != want {
			t.Errorf("AddSigningKey %s = %t, %v, want %t", id, added, err, want)
		}
	}
	add("1", 0, -hour, true)
	add("2", hour, -hour, false)
	add("2", hour, 0, false)
	add("2", hour, time.Second, true)
	add("3", -hour, hour, false)
	add("3", -hour, hour+time.Second, true)
	if added, err := a.AddSigningKey(ctx, storage.SigningKey{ID: "3", Created: at(day), Sealed: []byte("another")}, at(day)); added || err == nil {
		t.Errorf("AddSigningKey of an id that is taken = %t, %v", added, err)
	}
	keys, err := a.SigningKeys(ctx)
	if err != nil || len(keys) != 3 || keys[2].ID != "3" || !bytes.Equal(keys[2].Sealed, []byte("3")) {
		t.Errorf("SigningKeys = %+v, %v", keys, err)
	}
}
