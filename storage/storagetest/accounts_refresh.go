package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// testPeopleToRefresh has people in all the states that decide whether they are asked
// about. They were asked last in another order than they signed in.
func testPeopleToRefresh(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	none := func(*storage.Person) error { return nil }
	signOut := func(p *storage.Person) error { return a.EndSession(ctx, hashOf(p.Subject)) }
	key := func(expires time.Time) func(*storage.Person) error {
		return func(p *storage.Person) error {
			key := keyOf(p, p.Subject)
			key.Expires = expires
			r.addKey(key)
			return signOut(p)
		}
	}
	for _, test := range []struct {
		subject string
		session time.Duration // until then
		asked   time.Duration
		then    func(*storage.Person) error
	}{
		{"session", day, 5 * hour, none},
		{"key", day, 3 * hour, key(at(90 * day))},
		{"key without end", day, 4 * hour, key(time.Time{})},
		{"both", day, 2 * hour, func(p *storage.Person) error { r.addKey(keyOf(p, p.Subject)); return nil }},
		{"asked late", day, 20 * hour, none},
		{"nothing", day, hour, signOut},
		{"session over", 10 * hour, hour, none},
		{"key over", day, hour, key(at(10 * hour))},
		{"key revoked", day, hour, func(p *storage.Person) error {
			return errors.Join(key(at(90*day))(p), a.RevokeKey(ctx, p.Subject))
		}},
		{"no token", day, hour, func(p *storage.Person) error { return a.ForgetRefresh(ctx, p.ID, always) }},
		{"ended", day, hour, func(p *storage.Person) error { return second(a.EndPerson(ctx, p.ID, always)) }},
	} {
		person := r.signInUntil(somebody(test.subject), test.subject, at(test.session))
		if began, err := a.BeginRefresh(ctx, *person, at(test.asked)); err != nil || !began {
			t.Fatalf("BeginRefresh = %t, %v", began, err)
		}
		if err := test.then(person); err != nil {
			t.Fatal(err)
		}
	}
	want := func(version string, askedBefore, now time.Duration, limit int, want ...string) {
		t.Helper()
		people, err := a.PeopleToRefresh(ctx, version, "idp", at(askedBefore), at(now), limit)
		var got []string
		for _, p := range people {
			r.wantPerson(p.ID, p)
			got = append(got, p.Subject)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("PeopleToRefresh asked before %s = %v, %v, want %v", askedBefore, got, err, want)
		}
	}
	want(version, 19*hour, 10*hour, 100, "both", "key", "key without end", "session")
	want(version, 19*hour, 10*hour, 2, "both", "key")
	want(version, 4*hour, 10*hour, 100, "both", "key")
	want(version, 4*hour+time.Second, 10*hour, 100, "both", "key", "key without end")
	want(version, 21*hour, 10*hour, 100, "both", "key", "key without end", "session", "asked late")
	want(version, 19*hour, day, 100, "both", "key", "key without end") // a day later their sessions are over
	want(version, 19*hour, 91*day, 100, "key without end")             // and their keys
	want(version, 0, 10*hour, 100)
	want("of another", 19*hour, 10*hour, 100)
	people, err := a.PeopleToRefresh(ctx, version, "idp", at(hour+time.Second), at(10*hour-time.Second), 100)
	if err != nil || len(people) != 2 { // a second before, what is over was not yet
		t.Errorf("PeopleToRefresh = %+v, %v, want those whose session and key are not over yet", people, err)
	}
}

func testBeginRefresh(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	p := somebody("alice")
	person := r.signIn(p, "secret")
	want := func(p *storage.Person, after time.Duration, want bool) {
		t.Helper()
		if began, err := a.BeginRefresh(ctx, *p, at(after)); err != nil || began != want {
			t.Errorf("BeginRefresh after %s = %t, %v, want %t", after, began, err, want)
		}
	}
	if began, err := a.BeginRefresh(ctx, *person, person.Asked.Add(time.Second-1)); began || err != nil {
		t.Errorf("BeginRefresh in the second in which it was asked = %t, %v", began, err)
	}
	want(person, hour, true)
	want(person, hour, false)
	want(person, 2*hour, false)
	person = r.wantPerson(person.ID, p)
	if !person.Asked.Equal(at(hour)) || person.Refreshed.After(time.Now()) {
		t.Errorf("Person is %+v, want asked at %s and not yet refreshed", person, at(hour))
	}
	want(person, hour, false)
	want(person, 2*hour, true)

	person = r.wantPerson(person.ID, p)
	r.signIn(p, "anew")
	want(person, 3*hour, false)
	for i, end := range []func(int64) error{
		func(id int64) error { return second(a.EndPerson(ctx, id, always)) },
		func(id int64) error { return a.ForgetRefresh(ctx, id, always) },
	} {
		person = r.signIn(p, fmt.Sprint("again ", i))
		if err := end(person.ID); err != nil {
			t.Fatal(err)
		}
		want(person, 4*hour, false)
	}
}

func testFinishRefresh(t *testing.T, r *registry) {
	p := somebody("alice", "a")
	id := r.signIn(p, "secret").ID
	bob := somebody("bob", "b")
	idBob := r.signIn(bob, "bob's")
	for _, test := range []struct {
		name   string
		groups []string
		token  []byte
	}{
		{p.Name, p.Groups, nil},
		{"Alice", []string{"a", "c"}, nil},
		{"Alice", nil, []byte("another token")},
		{"Alice", []string{"c"}, []byte{0, 255}},
	} {
		person := r.wantPerson(id, p)
		if began, err := r.Accounts().BeginRefresh(context.Background(), *person, person.Asked.Add(hour)); !began || err != nil {
			t.Fatalf("BeginRefresh = %t, %v", began, err)
		}
		if err := r.Accounts().FinishRefresh(context.Background(), id, always, test.name, test.groups, test.token); err != nil {
			t.Fatalf("FinishRefresh: %v", err)
		}
		p.Name, p.Groups = test.name, test.groups
		if test.token != nil {
			p.RefreshToken = test.token
		}
		if got := r.wantPerson(id, p); !got.Asked.Equal(person.Asked.Add(hour)) {
			t.Errorf("FinishRefresh changed when it was asked from %s to %s", person.Asked.Add(hour), got.Asked)
		}
		if s, err := r.session("secret"); err != nil || s.Person.Name != p.Name || !slices.Equal(s.Person.Groups, p.Groups) {
			t.Errorf("the person's session is %+v, %v", s, err)
		}
	}
	r.wantPerson(idBob.ID, bob)
}

// testRefreshGivenUp gives a refresh token up while the provider is asked with it.
func testRefreshGivenUp(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	p := somebody("alice", "a")
	for i, giveUp := range []func(int64) error{
		func(id int64) error { return second(a.EndPerson(ctx, id, always)) },
		func(id int64) error { return a.ForgetRefresh(ctx, id, always) },
		func(int64) error {
			without := p
			without.RefreshToken = nil
			return second(a.SignIn(ctx, without, hashOf("without"), storage.Session{Expires: at(day)}))
		},
	} {
		id := r.signIn(p, fmt.Sprint(i)).ID
		if err := giveUp(id); err != nil {
			t.Fatal(err)
		}
		given := p
		given.RefreshToken = nil
		before := r.wantPerson(id, given)
		if err := a.FinishRefresh(ctx, id, always, "Alice", []string{"b"}, []byte("another token")); err != nil {
			t.Errorf("FinishRefresh: %v", err)
		}
		if after := r.wantPerson(id, given); !after.Refreshed.Equal(before.Refreshed) {
			t.Errorf("an answer that is too old was taken: %+v", after)
		}
	}
}

func testForgetRefresh(t *testing.T, r *registry) {
	p := somebody("alice", "a")
	person := r.signIn(p, "secret")
	key := keyOf(person, "key")
	r.addKey(key)
	r.beginKeySession("key", "key's")
	bob := somebody("bob")
	other := r.signIn(bob, "bob's")
	for range 2 {
		if err := r.Accounts().ForgetRefresh(context.Background(), person.ID, always); err != nil {
			t.Fatalf("ForgetRefresh: %v", err)
		}
		p.RefreshToken = nil
		if got := r.wantPerson(person.ID, p); !got.Asked.Equal(person.Asked) || !got.Refreshed.Equal(person.Refreshed) {
			t.Errorf("Person is %+v, want %+v without a refresh token", got, person)
		}
	}
	key.Owner, key.Groups, key.Version = p.Name, p.Groups, version
	r.wantKey(key)
	r.wantSessionOf("secret", person.ID)
	r.wantSessionBy("key's", "key")
	r.wantPerson(other.ID, bob)
}

// testLateAnswer: what a provider says of somebody who signed in anew since it was asked
// is too old, whatever it says.
func testLateAnswer(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	for name, answer := range map[string]func(id int64, asked time.Time) error{
		"the same": func(id int64, asked time.Time) error {
			return a.FinishRefresh(ctx, id, asked, "late", []string{"late"}, []byte("late"))
		},
		"another token": func(id int64, asked time.Time) error { return a.ReplaceRefreshToken(ctx, id, asked, []byte("late")) },
		"no token":      func(id int64, asked time.Time) error { return a.ForgetRefresh(ctx, id, asked) },
		"ended":         func(id int64, asked time.Time) error { return second(a.EndPerson(ctx, id, asked)) },
	} {
		person := r.signIn(somebody(name, "old"), "before "+name)
		asked := person.Asked.Add(time.Second)
		if began, err := a.BeginRefresh(ctx, *person, asked); err != nil || !began {
			t.Fatalf("BeginRefresh: %t, %v", began, err)
		}
		if err := answer(person.ID+1000, asked); !errors.Is(err, storage.ErrPersonUnknown) {
			t.Errorf("%s: of nobody: %v", name, err)
		}
		// Within the same second, too.
		again := r.signIn(somebody(name, "new"), "after "+name)
		if err := answer(person.ID, asked); !errors.Is(err, storage.ErrTooOld) {
			t.Errorf("%s: %v", name, err)
		}
		got, err := a.Person(ctx, person.ID)
		if err != nil || got.Name != again.Name || !slices.Equal(got.Groups, again.Groups) || !bytes.Equal(got.RefreshToken, again.RefreshToken) {
			t.Errorf("%s: the person is %+v, %v, want %+v", name, got, err, again)
		}
		if _, err := a.Session(ctx, hashOf("after "+name), at(0)); err != nil {
			t.Errorf("%s: session: %v", name, err)
		}
	}
}

func testReplaceRefreshToken(t *testing.T, r *registry) {
	ctx, a := context.Background(), r.Accounts()
	person := r.signIn(somebody("alice", "a"), "secret")
	if err := a.ReplaceRefreshToken(ctx, person.ID, always, []byte("next")); err != nil {
		t.Fatal(err)
	}
	got, err := a.Person(ctx, person.ID)
	if err != nil || string(got.RefreshToken) != "next" || got.Name != person.Name {
		t.Errorf("Person = %+v, %v", got, err)
	}
	if err := a.ForgetRefresh(ctx, person.ID, always); err != nil {
		t.Fatal(err)
	}
	if err := a.ReplaceRefreshToken(ctx, person.ID, always, []byte("late")); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Person(ctx, person.ID); err != nil || got.RefreshToken != nil {
		t.Errorf("a token that was given up came back: %+v, %v", got, err)
	}
}
