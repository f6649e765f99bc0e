package storagetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

var peopleTests = []registryTest{
	{"who signs in is known, also after a restart", testSignIn},
	{"signing in again replaces what was known", testSignInAgain},
	{"a person is an issuer's subject, whatever the name", testSamePerson},
	{"signing in with another session's secret changes nothing", testSignInTwice},
	{"who never signed in is unknown", testPersonUnknown},
	{"people are asked about in order, if anything still lets them in", testPeopleToRefresh},
	{"a refresh is begun once, and not of what has changed since", testBeginRefresh},
	{"what a provider said of a person is kept", testFinishRefresh},
	{"an answer to a refresh token that was given up changes nothing", testRefreshGivenUp},
	{"with a lost refresh token nothing else is lost", testForgetRefresh},
	{"an answer that is older than a sign-in changes nothing", testLateAnswer},
	{"a refresh token that came alone is kept", testReplaceRefreshToken},
	{"nothing lets in who was ended, until they sign in", testEndPerson},
	{"who was ended makes no key with what came before", testEndedMakesNoKey},
	{"texts are kept whole or refused", testOddTexts},
}

func testSignIn(t *testing.T, r *registry) {
	p := somebody("alice", "b", "a", "b")
	before := time.Now().Unix()
	signed := r.signIn(p, "secret")
	if signed.ID == 0 || signed.Refreshed.Unix() < before || signed.Refreshed.After(time.Now()) || signed.Asked != signed.Refreshed {
		t.Errorf("SignIn = %+v, want an id, and that it was now that the provider told of it", signed)
	}
	for range 2 {
		got := r.wantPerson(signed.ID, p)
		if !got.Refreshed.Equal(signed.Refreshed) || !got.Asked.Equal(signed.Asked) {
			t.Errorf("Person is %+v, want %+v", got, signed)
		}
		r.wantSessionOf("secret", signed.ID)
		r.restart()
	}
}

func testSignInAgain(t *testing.T, r *registry) {
	p := somebody("alice", "a", "b")
	id := r.signIn(p, "0").ID
	for i, change := range []func(){
		func() { p.Name = "Alice" },
		func() { p.Groups = []string{"c"} },
		func() { p.Groups = nil },
		func() { p.ClientID = "other" },
		func() { p.RefreshToken = []byte("another") },
		func() { p.RefreshToken = nil },
		func() { p.RefreshToken = []byte{0, 255} },
		func() {}, // nothing
	} {
		change()
		signed := r.signIn(p, fmt.Sprint(i+1))
		if signed.ID != id || signed.Name != p.Name || !slices.Equal(signed.Groups, p.Groups) || !bytes.Equal(signed.RefreshToken, p.RefreshToken) {
			t.Errorf("SignIn = %+v, want %+v", signed, p)
		}
		r.wantPerson(id, p)
	}
	for i := range 8 { // earlier sessions stay
		r.wantSessionOf(fmt.Sprint(i), id)
	}
}

func testSamePerson(t *testing.T, r *registry) {
	alice := somebody("alice")
	sub, issuer, swapped := alice, alice, alice
	sub.Subject = "Alice" // the name is the same
	issuer.Issuer += "/"
	swapped.Issuer, swapped.Subject = alice.Subject, alice.Issuer
	ids := map[int64]bool{}
	for i, p := range []storage.Person{alice, sub, issuer, swapped} {
		id := r.signIn(p, fmt.Sprint(i)).ID
		if ids[id] {
			t.Errorf("%s of %s is somebody else too", p.Subject, p.Issuer)
		}
		ids[id] = true
		r.wantPerson(id, p)
	}
}

func testSignInTwice(t *testing.T, r *registry) {
	p := somebody("alice", "a")
	id := r.signIn(p, "secret").ID
	for _, other := range []storage.Person{somebody("alice", "b"), somebody("bob")} {
		if _, err := r.Accounts().SignIn(context.Background(), other, hashOf("secret"), storage.Session{Created: at(0), Expires: at(day)}); err == nil {
			t.Error("a session was begun twice")
		}
	}
	r.wantPerson(id, p)
	r.wantSessionOf("secret", id)
}

func testPersonUnknown(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	for range 2 {
		for _, id := range []int64{-1, 0, 99} {
			wantError(t, "Person", second(a.Person(ctx, id)), storage.ErrPersonUnknown)
			wantError(t, "EndPerson", second(a.EndPerson(ctx, id, always)), storage.ErrPersonUnknown)
			wantError(t, "ForgetRefresh", a.ForgetRefresh(ctx, id, always), storage.ErrPersonUnknown)
			wantError(t, "FinishRefresh", a.FinishRefresh(ctx, id, always, "name", nil, nil), storage.ErrPersonUnknown)
			if began, err := a.BeginRefresh(ctx, storage.Person{ID: id}, at(0)); began || err != nil {
				t.Errorf("BeginRefresh = %t, %v", began, err)
			}
			if keys, err := a.KeysOf(ctx, id); len(keys) > 0 || err != nil {
				t.Errorf("KeysOf = %v, %v", keys, err)
			}
		}
		r.signIn(somebody("alice"), fmt.Sprint(time.Now()))
	}
}

func testEndPerson(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	p := somebody("alice", "a")
	person := r.signIn(p, "1")
	r.signIn(p, "2")
	other := r.signIn(somebody("bob", "a"), "bob's")
	over := keyOf(person, "over")
	over.Expires = at(-hour)
	r.addKey(over)
	ids := []string{"key 1", "key 2", "over"}
	for _, id := range []string{"key 1", "key 2", "revoked before"} {
		r.addKey(keyOf(person, id))
		r.beginKeySession(id, "by "+id)
	}
	r.addKey(keyOf(other, "bob's key"))
	r.addKey(storage.APIKey{ID: "nobody's key", Owner: p.Name, Groups: p.Groups, Created: at(0)})
	for _, key := range []string{"bob's key", "nobody's key"} {
		r.beginKeySession(key, "by "+key)
	}
	if err := a.RevokeKey(ctx, "revoked before"); err != nil {
		t.Fatal(err)
	}
	r.key("key 1")
	before := time.Now().Unix()
	for _, want := range [][]string{ids, nil} { // the second time there is nothing left to do
		revoked, err := a.EndPerson(ctx, person.ID, always)
		if slices.Sort(revoked); err != nil || !slices.Equal(revoked, want) {
			t.Errorf("EndPerson revoked %q, %v, want %q", revoked, err, want)
		}
	}
	check := func() {
		t.Helper()
		for _, id := range ids {
			if key := r.key(id); key.Revoked.Unix() < before || key.Revoked.After(time.Now()) {
				t.Errorf("key %s was revoked at %s, want now", id, key.Revoked)
			}
		}
		r.wantEnded(append(ids, "revoked before")...)
		r.wantNoSession("1", "2", "by key 1", "by key 2", "by revoked before")
		r.wantSessionOf("bob's", other.ID)
		r.wantSessionBy("by bob's key", "bob's key")
		r.wantSessionBy("by nobody's key", "nobody's key")
	}
	check()
	p.RefreshToken = nil
	r.wantPerson(person.ID, p)
	p.RefreshToken = []byte("another token")
	if again := r.signIn(p, "again"); again.ID != person.ID {
		t.Errorf("signing in again made person %d of %d", again.ID, person.ID)
	}
	check()
	r.wantSessionOf("again", person.ID)
	r.wantPerson(person.ID, p)
	r.addKey(keyOf(person, "key 3"))
	r.wantSessionOf("bob's", other.ID)
}

func testEndedMakesNoKey(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	person := r.signIn(somebody("alice"), "secret")
	r.addKey(keyOf(person, "key"))
	r.signIn(somebody("bob"), "bob's")
	refused := func() {
		t.Helper()
		key := keyOf(person, "late")
		wantError(t, "AddKey", a.AddKey(ctx, key, hashOf("late")), storage.ErrSessionUnknown)
		r.wantNoKey("late")
	}
	r.beginKeySession("key", "by key")
	if err := a.EndSession(ctx, hashOf("secret")); err != nil {
		t.Fatal(err)
	}
	refused() // a key, and a session begun with one, makes no keys
	r.signInUntil(somebody("alice"), "over", at(-time.Second))
	refused()
	r.signIn(somebody("alice"), "secret")
	if err := second(a.EndPerson(ctx, person.ID, always)); err != nil {
		t.Fatal(err)
	}
	refused()
	wantError(t, "RotateKey", a.RotateKey(ctx, "key", keyOf(person, "late"), hashOf("late"), at(hour)), storage.ErrKeyEnded)
	r.wantNoKey("late")
	r.signIn(somebody("alice"), "anew")
	r.addKey(keyOf(person, "late"))
	wantError(t, "AddKey", a.AddKey(ctx, storage.APIKey{ID: "nobody's", Person: 99}, hashOf("nobody's")), storage.ErrSessionUnknown)
}

func testOddTexts(t *testing.T, r *registry) {
	var many []string
	for i := range 1000 {
		many = append(many, fmt.Sprint("group ", i))
	}
	for i, text := range []string{
		"", " ", "it's", `"quoted" \ and /`, "a,b;c", "äöü 日本語 🐳", "e\u0301 is not \u00e9", "<script>&amp;</script>",
		"line\nbreak\ttab", "\u2028\u202e", "[]", "null", "%s$1?", strings.Repeat("long ", 2000), "in \x00 between",
	} {
		name := fmt.Sprintf("%d", i)
		p := storage.Person{
			Issuer: issuer + "/" + text, Subject: name + text, ClientID: text, Name: text,
			Groups: append([]string{text, text + "!"}, many...), RefreshToken: []byte(name + text),
		}
		person, err := r.Accounts().SignIn(context.Background(), p, hashOf(name), storage.Session{Expires: at(day), IDToken: []byte(name + text)})
		if err != nil && strings.Contains(text, "\x00") {
			continue // which some databases do not take in texts
		}
		if err != nil {
			t.Errorf("SignIn of %q: %v", text, err)
			continue
		}
		r.wantPerson(person.ID, p)
		if again := r.signIn(p, "again "+name); again.ID != person.ID {
			t.Errorf("%q is another person the second time", text)
		}
		if s, err := r.session(name); err != nil || string(s.IDToken) != name+text {
			t.Errorf("session is %+v, %v", s, err)
		}
		key := storage.APIKey{
			ID: name + text, Label: text, Owner: text, Groups: p.Groups, Scopes: []string{text}, Job: text, Created: at(0),
		}
		r.addKey(key)
		r.wantKey(key)
	}
	r.signIn(storage.Person{Issuer: issuer, Subject: "a"}, "lower") // case tells apart
	r.signIn(storage.Person{Issuer: issuer, Subject: "A"}, "upper")
	lower, errLower := r.session("lower")
	upper, errUpper := r.session("upper")
	if errLower != nil || errUpper != nil || lower.Person.ID == upper.Person.ID {
		t.Errorf("subjects that differ in case are one: %+v, %v, %+v, %v", lower, errLower, upper, errUpper)
	}
}
