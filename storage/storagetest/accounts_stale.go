package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/eblume/caddy-registry/storage"
)

// change is something that changes what is known of the key "key", which is alice's.
type change struct {
	what string
	do   func(a *storage.Accounts, alice *storage.Person) error
	want func(key *storage.APIKey, err error) bool
}

var changes = []change{
	{"SignIn", func(a *storage.Accounts, alice *storage.Person) error {
		p := somebody("alice", "new")
		return second(a.SignIn(context.Background(), p, hashOf("anew"), storage.Session{Expires: at(day)}))
	}, hasNewGroups},
	{"SignIn with another name", func(a *storage.Accounts, alice *storage.Person) error {
		p := *alice
		p.Name = "Alice"
		return second(a.SignIn(context.Background(), p, hashOf("anew"), storage.Session{Expires: at(day)}))
	}, func(key *storage.APIKey, err error) bool { return err == nil && key.Owner == "Alice" }},
	{"FinishRefresh", func(a *storage.Accounts, alice *storage.Person) error {
		return a.FinishRefresh(context.Background(), alice.ID, always, alice.Name, []string{"new"}, nil)
	}, hasNewGroups},
	{"FinishRefresh with another name", func(a *storage.Accounts, alice *storage.Person) error {
		return a.FinishRefresh(context.Background(), alice.ID, always, "Alice", alice.Groups, nil)
	}, func(key *storage.APIKey, err error) bool { return err == nil && key.Owner == "Alice" }},
	{"EndPerson", func(a *storage.Accounts, alice *storage.Person) error {
		return second(a.EndPerson(context.Background(), alice.ID, always))
	}, isRevoked},
	{"RevokeKey", func(a *storage.Accounts, _ *storage.Person) error {
		return a.RevokeKey(context.Background(), "key")
	}, isRevoked},
	{"RotateKey", func(a *storage.Accounts, alice *storage.Person) error {
		return a.RotateKey(context.Background(), "key", keyOf(alice, "next"), hashOf("next"), at(0))
	}, func(key *storage.APIKey, err error) bool {
		return err == nil && key.Expires.Equal(at(0)) && key.Successor == "next"
	}},
	{"RotateKey of its predecessor", func(a *storage.Accounts, alice *storage.Person) error {
		return a.RotateKey(context.Background(), "previous", keyOf(alice, "next"), hashOf("next"), at(hour))
	}, isRevoked},
	{"ExpireAccounts", func(a *storage.Accounts, _ *storage.Person) error {
		return a.ExpireAccounts(context.Background(), at(181*day))
	}, func(_ *storage.APIKey, err error) bool { return errors.Is(err, storage.ErrKeyUnknown) }},
}

func hasNewGroups(key *storage.APIKey, err error) bool {
	return err == nil && slices.Equal(key.Groups, []string{"new"})
}

func isRevoked(key *storage.APIKey, err error) bool { return err == nil && !key.Revoked.IsZero() }

// finders are the ways to the key "key".
var finders = map[string]func(a *storage.Accounts) (*storage.APIKey, error){
	"KeyByHash": func(a *storage.Accounts) (*storage.APIKey, error) {
		return a.KeyByHash(context.Background(), hashOf("key"))
	},
	"KeyByID": func(a *storage.Accounts) (*storage.APIKey, error) {
		return a.KeyByID(context.Background(), "key")
	},
	"Session": func(a *storage.Accounts) (*storage.APIKey, error) {
		s, err := a.Session(context.Background(), hashOf("by key"), at(0))
		if err != nil {
			return nil, err
		}
		return s.Key, nil
	},
}

// testNotStale reads a key before, while and after it is changed: in the middle of either,
// what is remembered is most easily wrong.
func testNotStale(t *testing.T, r *registry) {
	for _, test := range changes {
		for how, find := range finders {
			for when, run := range map[string]func(d *meddling, read, change func()){
				"before": func(_ *meddling, read, change func()) {
					read()
					change()
				},
				"in the middle of": func(d *meddling, read, change func()) {
					d.beforeCommit = read
					change()
				},
				"around": func(d *meddling, read, change func()) {
					d.afterRead = change
					read()
				},
				"with its second row around": func(d *meddling, read, change func()) { // which some have
					d.afterRead = func() { d.afterRead = change }
					read()
					once(&d.afterRead)
				},
			} {
				alice := r.prepareChange()
				database := &meddling{Database: r.database}
				a := storage.NewAccounts(database)
				run(database, func() { _, _ = find(a) }, func() {
					if err := test.do(a, alice); err != nil {
						t.Errorf("%s: %v", test.what, err)
					}
				})
				if err := checkChanged(a, test.want); err != nil {
					t.Errorf("%s %s %s: %v", how, when, test.what, err)
				}
			}
		}
	}
}

// prepareChange removes all sessions and keys, and makes those that are changed.
func (r *registry) prepareChange() *storage.Person {
	r.t.Helper()
	if err := r.Accounts().ExpireAccounts(context.Background(), at(1000*day)); err != nil {
		r.t.Fatalf("ExpireAccounts: %v", err)
	}
	alice := r.signIn(somebody("alice", "old"), "alice's")
	previous := keyOf(alice, "previous")
	previous.Successor = "key"
	r.addKey(previous)
	r.addKey(keyOf(alice, "key"))
	r.beginKeySession("key", "by key")
	return alice
}

// checkChanged tells which way to the key leads to what it was before.
func checkChanged(a *storage.Accounts, want func(*storage.APIKey, error) bool) error {
	for how, find := range finders {
		key, err := find(a)
		if errors.Is(err, storage.ErrSessionUnknown) {
			// As it must be if the key has ended.
			if key, err = a.KeyByID(context.Background(), "key"); err == nil && !key.Ended(at(0)) {
				return fmt.Errorf("%s: no session of %+v", how, key)
			}
		}
		if !want(key, err) {
			return fmt.Errorf("%s tells of what was before: %+v, %v", how, key, err)
		}
	}
	return nil
}

// testSharedAccounts has two processes, of which one makes each change after the other
// has read.
func testSharedAccounts(t *testing.T, r *registry) {
	for _, test := range changes {
		alice := r.prepareChange()
		reader, writer := storage.NewAccounts(shared{r.database}), storage.NewAccounts(shared{r.database})
		for how, find := range finders {
			for _, a := range []*storage.Accounts{reader, writer, reader} {
				if _, err := find(a); err != nil {
					t.Errorf("%s: %v", how, err)
				}
			}
		}
		if err := test.do(writer, alice); err != nil {
			t.Fatalf("%s: %v", test.what, err)
		}
		for _, a := range []*storage.Accounts{reader, writer} {
			if err := checkChanged(a, test.want); err != nil {
				t.Errorf("after %s: %v", test.what, err)
			}
		}
	}
}

// shared is a database that other processes may write to.
type shared struct{ storage.Database }

func (shared) Shared() bool { return true }
