package storagetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

var accountTests = slices.Concat(peopleTests, keyTests, sessionTests, accountRaceTests, []registryTest{
	{"any sequence of calls does to accounts what it does to maps", testAccountsModel},
})

const (
	hour = time.Hour
	day  = 24 * hour
)

// at returns a time that is so far from when the tests began, as it is kept: in whole
// seconds.
func at(d time.Duration) time.Time { return began.Add(d) }

// always lets an answer about a person count whenever the provider was asked.
var always time.Time

var began = time.Unix(time.Now().Unix(), 0)

// hashOf is the hash of a key or of a session's secret.
func hashOf(secret string) [32]byte { return sha256.Sum256([]byte(secret)) }

const (
	issuer  = "https://idp.example"
	version = "of idp"
)

// somebody is a person whom an identity provider tells of.
func somebody(subject string, groups ...string) storage.Person {
	return storage.Person{
		Issuer: issuer, Subject: subject, ClientID: "idp", Version: version,
		Name: subject + "@example.com", Groups: groups, RefreshToken: []byte("token of " + subject),
	}
}

// signIn begins a session of a day of p, with a secret.
func (r *registry) signIn(p storage.Person, secret string) *storage.Person {
	r.t.Helper()
	return r.signInUntil(p, secret, at(day))
}

// signInUntil begins a session of p that ends then.
func (r *registry) signInUntil(p storage.Person, secret string, expires time.Time) *storage.Person {
	r.t.Helper()
	signed, err := r.Accounts().SignIn(context.Background(), p, hashOf(secret), storage.Session{Created: at(0), Expires: expires})
	if err != nil {
		r.t.Fatalf("SignIn: %v", err)
	}
	return signed
}

// keyOf is a key of a person, who must be signed in when it is added.
func keyOf(person *storage.Person, id string) storage.APIKey {
	return storage.APIKey{ID: id, Person: person.ID, Created: at(0), Expires: at(90 * day), Lifetime: 90 * day}
}

// addKey adds a key whose text is its id.
func (r *registry) addKey(key storage.APIKey) {
	r.t.Helper()
	if err := r.Accounts().AddKey(context.Background(), key, hashOf(key.ID)); err != nil {
		r.t.Fatalf("AddKey: %v", err)
	}
}

// beginKeySession begins a session of a day with a key.
func (r *registry) beginKeySession(key, secret string) {
	r.t.Helper()
	err := r.Accounts().BeginKeySession(context.Background(), key, hashOf(secret), storage.Session{Created: at(0), Expires: at(day)})
	if err != nil {
		r.t.Fatalf("BeginKeySession: %v", err)
	}
}

// key returns a key as it is listed.
func (r *registry) key(id string) storage.APIKey {
	r.t.Helper()
	key, err := r.Accounts().Key(context.Background(), id)
	if err != nil {
		r.t.Fatalf("Key %s: %v", id, err)
	}
	return *key
}

// wantKey checks that a key is kept as want, however it is looked for.
func (r *registry) wantKey(want storage.APIKey) {
	r.t.Helper()
	if err := checkKey(r.Accounts(), want); err != nil {
		r.t.Error(err)
	}
}

// checkKey tells why a key, whose text is its id, is not kept as want.
func checkKey(a *storage.Accounts, want storage.APIKey) error {
	ctx := context.Background()
	if got, err := a.Key(ctx, want.ID); err != nil || !reflect.DeepEqual(*got, want) {
		return fmt.Errorf("key %s is %+v, %v, want %+v", want.ID, got, err, want)
	}
	want.LastUsed = time.Time{}
	for range 2 { // the second time it may be remembered
		if got, err := a.KeyByHash(ctx, hashOf(want.ID)); err != nil || !reflect.DeepEqual(*got, want) {
			return fmt.Errorf("by its hash key %s is %+v, %v, want %+v", want.ID, got, err, want)
		}
		if got, err := a.KeyByID(ctx, want.ID); err != nil || !reflect.DeepEqual(*got, want) {
			return fmt.Errorf("by its id key %s is %+v, %v, want %+v", want.ID, got, err, want)
		}
	}
	return nil
}

func (r *registry) wantNoKey(id string) {
	r.t.Helper()
	if err := checkNoKey(r.Accounts(), id); err != nil {
		r.t.Error(err)
	}
}

func checkNoKey(a *storage.Accounts, id string) error {
	ctx := context.Background()
	for what, err := range map[string]error{
		"Key":       second(a.Key(ctx, id)),
		"KeyByID":   second(a.KeyByID(ctx, id)),
		"KeyByHash": second(a.KeyByHash(ctx, hashOf(id))),
	} {
		if !errors.Is(err, storage.ErrKeyUnknown) {
			return fmt.Errorf("%s of %s: error %v, want %v", what, id, err, storage.ErrKeyUnknown)
		}
	}
	return nil
}

// wantEnded checks that keys are there, and take nobody in.
func (r *registry) wantEnded(ids ...string) {
	r.t.Helper()
	for _, id := range ids {
		byID, errID := r.Accounts().KeyByID(context.Background(), id)
		byHash, errHash := r.Accounts().KeyByHash(context.Background(), hashOf(id))
		if errID != nil || errHash != nil {
			r.t.Errorf("key %s: %v, %v", id, errID, errHash)
			continue
		}
		if !byID.Ended(time.Now()) || !byHash.Ended(time.Now()) {
			r.t.Errorf("key %s has not ended: %+v, %+v", id, byID, byHash)
		}
	}
}

// wantPerson checks what is known of a person, but for the times.
func (r *registry) wantPerson(id int64, want storage.Person) *storage.Person {
	r.t.Helper()
	got, err := r.Accounts().Person(context.Background(), id)
	if err != nil {
		r.t.Fatalf("Person: %v", err)
	}
	want.ID, want.Refreshed, want.Asked = id, got.Refreshed, got.Asked
	if !reflect.DeepEqual(*got, want) {
		r.t.Errorf("Person is %+v, want %+v", *got, want)
	}
	return got
}

// session returns the session that a secret has now.
func (r *registry) session(secret string) (*storage.Session, error) {
	return r.Accounts().Session(context.Background(), hashOf(secret), time.Now())
}

// wantSessionOf checks that a secret is a person's session.
func (r *registry) wantSessionOf(secret string, person int64) {
	r.t.Helper()
	s, err := r.session(secret)
	if err != nil || s.Key != nil || s.Person == nil || s.Person.ID != person {
		r.t.Errorf("session %s is %+v, %v, want person %d's", secret, s, err, person)
	}
}

// wantSessionBy checks that a secret is the session of a key.
func (r *registry) wantSessionBy(secret, key string) {
	r.t.Helper()
	s, err := r.session(secret)
	if err != nil || s.Person != nil || s.Key == nil || s.Key.ID != key {
		r.t.Errorf("session %s is %+v, %v, want key %s's", secret, s, err, key)
	}
}

func (r *registry) wantNoSession(secrets ...string) {
	r.t.Helper()
	for _, secret := range secrets {
		wantError(r.t, "session "+secret, second(r.session(secret)), storage.ErrSessionUnknown)
	}
}

// meddling is a database that does something in the middle of what is asked of it, once.
type meddling struct {
	storage.Database
	afterRead    func() // that a row was read, and what it says not yet told
	beforeCommit func()
}

func (m *meddling) Read(ctx context.Context) storage.Querier {
	return meddlingQuerier{m.Database.Read(ctx), m}
}

func (m *meddling) Write(ctx context.Context, f func(storage.Tx) error) error {
	return m.Database.Write(ctx, func(tx storage.Tx) error {
		err := f(tx)
		once(&m.beforeCommit)
		return err
	})
}

type meddlingQuerier struct {
	storage.Querier
	m *meddling
}

func (q meddlingQuerier) QueryRow(query string, args ...any) storage.Row {
	return meddlingRow{q.Querier.QueryRow(query, args...), q.m}
}

type meddlingRow struct {
	storage.Row
	m *meddling
}

func (r meddlingRow) Scan(dest ...any) error {
	err := r.Row.Scan(dest...)
	once(&r.m.afterRead)
	return err
}

func once(f *func()) {
	if do := *f; do != nil {
		*f = nil
		do()
	}
}
