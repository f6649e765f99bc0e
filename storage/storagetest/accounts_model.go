package storagetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/race"
)

// testAccountsModel runs random sequences of calls and compares what accounts say and
// hold with maps in memory that do the same. All sequences share one database, each with
// names of its own.
func testAccountsModel(t *testing.T, r *registry) {
	var sequences int
	rapid.Check(t, func(rt *rapid.T) {
		sequences++
		m := &accountsModel{
			a: r.Accounts(), t: t, prefix: fmt.Sprintf("sequence%06d ", sequences),
			people: map[int64]*storage.Person{}, keys: map[string]*storage.APIKey{}, sessions: map[string]*modelSession{},
		}
		defer m.end()
		rt.Repeat(map[string]func(*rapid.T){
			"":                  m.check,
			"SignIn":            m.signIn,
			"BeginRefresh":      m.beginRefresh,
			"FinishRefresh":     m.finishRefresh,
			"ForgetRefresh":     m.forgetRefresh,
			"PeopleToRefresh":   m.peopleToRefresh,
			"EndPerson":         m.endPerson,
			"AddKey":            m.addKey,
			"RevokeKey":         m.revokeKey,
			"RotateKey":         m.rotateKey,
			"KeyUsed":           m.keyUsed,
			"FlushUsed":         m.flushUsed,
			"BeginKeySession":   m.beginKeySession,
			"EndSession":        m.endSession,
			"ExpireAccounts":    m.expireAccounts,
			"AddSigningKey":     m.addSigningKey,
			"DeleteSigningKeys": m.deleteSigningKeys,
		})
	})
}

// accountsModel is accounts as maps. Times that the accounts take from the clock are
// taken over from them, see now.
type accountsModel struct {
	a        *storage.Accounts
	t        *testing.T
	prefix   string // of subjects, ids and secrets
	calls    int
	made     int // keys and sessions, which numbers them
	people   map[int64]*storage.Person
	read     []storage.Person           // as they once were
	keys     map[string]*storage.APIKey // by id; owner and groups only if there is no person
	sessions map[string]*modelSession   // by secret
	signing  []storage.SigningKey
}

type modelSession struct {
	person  int64
	key     string
	expires time.Time
}

// Few times, of which most are those of something, so that many are met exactly. None is
// so near that the tests take until then.
var (
	anyTime   = rapid.Map(rapid.SampledFrom([]time.Duration{-100 * day, -hour, 0, hour, 2 * hour, day, 2 * day}), at)
	anyEnd    = rapid.OneOf(anyTime, rapid.Just(time.Time{}))
	anyGroups = rapid.SampledFrom([][]string{nil, {"a"}, {"b"}, {"a", "b"}})
	anyToken  = rapid.SampledFrom([][]byte{nil, []byte("token"), {0}})
	anyName   = rapid.SampledFrom([]string{"alice", "Alice", ""})
)

// end leaves no signing keys to the next sequence, nor sessions and keys, which would
// only make it slower.
func (m *accountsModel) end() {
	ctx := context.Background()
	err := errors.Join(m.a.ExpireAccounts(ctx, at(9999*day)), m.a.DeleteSigningKeys(ctx, at(9999*day)))
	for id := range m.keys {
		err = errors.Join(err, m.a.RevokeKey(ctx, id))
	}
	if err := errors.Join(err, m.a.ExpireAccounts(ctx, at(9999*day))); err != nil && !errors.Is(err, storage.ErrKeyUnknown) {
		m.t.Error(err)
	}
}

// now checks that a time is that of the call that is under way, which takes it from the
// clock.
func (m *accountsModel) now(t *rapid.T, what string, got time.Time) time.Time {
	t.Helper()
	if got.Before(began) || got.After(time.Now()) || got.Nanosecond() != 0 {
		t.Fatalf("%s is %s, want now", what, got)
	}
	return got
}

func (m *accountsModel) name(of string) string {
	m.made++
	return fmt.Sprintf("%s%s %03d", m.prefix, of, m.made)
}

// drawFrom draws one of what is there, or now and then what is not.
func drawFrom[K cmp.Ordered, V any](t *rapid.T, what string, from map[K]V, absent K) K {
	all := slices.Sorted(maps.Keys(from))
	if len(all) == 0 || rapid.IntRange(0, 9).Draw(t, "no "+what) == 0 {
		return absent
	}
	return rapid.SampledFrom(all).Draw(t, what)
}

func (m *accountsModel) signIn(t *rapid.T) {
	p := storage.Person{
		Issuer: issuer, Subject: m.prefix + rapid.SampledFrom([]string{"1", "2"}).Draw(t, "subject"), ClientID: "idp", Version: version,
		Name: anyName.Draw(t, "name"), Groups: anyGroups.Draw(t, "groups"), RefreshToken: anyToken.Draw(t, "token"),
	}
	expires, secret := anyTime.Draw(t, "expires"), m.name("session")
	signed, err := m.a.SignIn(context.Background(), p, hashOf(secret), storage.Session{Created: at(0), Expires: expires})
	expect(t, "SignIn", err, nil)
	var before time.Time
	for id, known := range m.people {
		if known.Subject == p.Subject {
			p.ID, before = id, known.Asked
		}
	}
	if p.ID == 0 && m.people[signed.ID] == nil {
		p.ID = signed.ID
	}
	p.Refreshed = m.now(t, "Refreshed", signed.Refreshed)
	p.Asked = signed.Refreshed
	if since := before.Sub(p.Asked); since >= 0 && since <= time.Minute {
		p.Asked = before.Add(time.Second)
	}
	if !reflect.DeepEqual(*signed, p) {
		t.Fatalf("SignIn = %+v, want %+v", *signed, p)
	}
	m.people[p.ID] = &p
	m.sessions[secret] = &modelSession{person: p.ID, expires: expires}
}

func (m *accountsModel) person(t *rapid.T) (int64, *storage.Person, error) {
	id := drawFrom(t, "person", m.people, -1)
	if p := m.people[id]; p != nil {
		return id, p, nil
	}
	return id, nil, storage.ErrPersonUnknown
}

func (m *accountsModel) beginRefresh(t *rapid.T) {
	if len(m.read) == 0 {
		t.Skip("nobody was read")
	}
	read, now := rapid.SampledFrom(m.read).Draw(t, "read"), anyTime.Draw(t, "now")
	p := m.people[read.ID]
	want := now.After(read.Asked) && p.Asked.Equal(read.Asked) && p.RefreshToken != nil
	if began, err := m.a.BeginRefresh(context.Background(), read, now); err != nil || began != want {
		t.Fatalf("BeginRefresh = %t, %v, want %t", began, err, want)
	}
	if want {
		p.Asked = now
	}
}

func (m *accountsModel) finishRefresh(t *rapid.T) {
	id, p, want := m.person(t)
	name, groups, token := anyName.Draw(t, "name"), anyGroups.Draw(t, "groups"), anyToken.Draw(t, "token")
	expect(t, "FinishRefresh", m.a.FinishRefresh(context.Background(), id, always, name, groups, token), want)
	if want != nil || p.RefreshToken == nil {
		return
	}
	if p.Name, p.Groups = name, groups; token != nil {
		p.RefreshToken = token
	}
	got, err := m.a.Person(context.Background(), id)
	expect(t, "Person", err, nil)
	p.Refreshed = m.now(t, "Refreshed", got.Refreshed)
}

func (m *accountsModel) forgetRefresh(t *rapid.T) {
	id, p, want := m.person(t)
	expect(t, "ForgetRefresh", m.a.ForgetRefresh(context.Background(), id, always), want)
	if want == nil {
		p.RefreshToken = nil
	}
}

func (m *accountsModel) peopleToRefresh(t *rapid.T) {
	askedBefore, now := anyTime.Draw(t, "asked before").Add(time.Second), anyTime.Draw(t, "now")
	limit := rapid.IntRange(1, 3).Draw(t, "limit")
	var due []time.Time // when those were asked who are to be
	lets := func(p *storage.Person) bool {
		for _, s := range m.sessions {
			if s.person == p.ID && s.expires.After(now) {
				return true
			}
		}
		for _, key := range m.keys {
			if key.Person == p.ID && !key.Ended(now) {
				return true
			}
		}
		return false
	}
	isDue := func(p *storage.Person) bool {
		return p.RefreshToken != nil && p.Asked.Before(askedBefore) && lets(p)
	}
	for _, p := range m.people {
		if isDue(p) {
			due = append(due, p.Asked)
		}
	}
	slices.SortFunc(due, time.Time.Compare)
	// Those of other sequences have no session and no key any more.
	got, err := m.a.PeopleToRefresh(context.Background(), version, "idp", askedBefore, now, limit)
	expect(t, "PeopleToRefresh", err, nil)
	if len(got) != min(limit, len(due)) {
		t.Fatalf("PeopleToRefresh = %+v, want %d of them", got, min(limit, len(due)))
	}
	seen := map[int64]bool{}
	for i, p := range got {
		known := m.people[p.ID]
		if known == nil || seen[p.ID] || !isDue(known) || !reflect.DeepEqual(p, *known) || !p.Asked.Equal(due[i]) {
			t.Fatalf("PeopleToRefresh = %+v, number %d is wrong: %+v", got, i, known)
		}
		seen[p.ID] = true
	}
}

func (m *accountsModel) endPerson(t *rapid.T) {
	id, p, want := m.person(t)
	got, err := m.a.EndPerson(context.Background(), id, always)
	expect(t, "EndPerson", err, want)
	var revoked []string
	for _, key := range m.keys {
		if want == nil && key.Person == id {
			if key.Revoked.IsZero() {
				revoked = append(revoked, key.ID)
			}
			m.revoke(t, key)
		}
	}
	slices.Sort(got)
	if slices.Sort(revoked); !slices.Equal(got, revoked) {
		t.Fatalf("EndPerson revoked %q, want %q", got, revoked)
	}
	if want == nil {
		p.RefreshToken = nil
		maps.DeleteFunc(m.sessions, func(_ string, s *modelSession) bool { return s.person == id })
	}
}

// check compares all that can be seen.
func (m *accountsModel) check(t *rapid.T) {
	if m.calls++; m.calls%race.Stride() > 0 {
		return
	}
	m.checkPeople(t)
	m.checkKeys(t)
	for secret, s := range m.sessions {
		for _, now := range []time.Time{at(0), at(hour)} {
			if err := m.checkSession(secret, s, now); err != nil {
				t.Fatalf("session %s at %s: %v", secret, now, err)
			}
		}
	}
	slices.SortFunc(m.signing, func(a, b storage.SigningKey) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
	})
	signing, err := m.a.SigningKeys(context.Background())
	same := func(a, b storage.SigningKey) bool {
		return a.ID == b.ID && a.Created.Equal(b.Created) && bytes.Equal(a.Sealed, b.Sealed)
	}
	if err != nil || !slices.EqualFunc(signing, m.signing, same) {
		t.Fatalf("SigningKeys = %v, %v, want %v", signing, err, m.signing)
	}
}

func (m *accountsModel) checkPeople(t *rapid.T) {
	for _, id := range slices.Sorted(maps.Keys(m.people)) {
		want := m.people[id]
		got, err := m.a.Person(context.Background(), id)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("Person = %+v, %v, want %+v", got, err, want)
		}
		if !slices.ContainsFunc(m.read, func(p storage.Person) bool { return p.ID == id && p.Asked.Equal(got.Asked) }) {
			m.read = append(m.read, *got)
		}
	}
}
