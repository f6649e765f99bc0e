package storagetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/storage"
)

// revoke does to a key of the model what was done to the real one.
func (m *accountsModel) revoke(t *rapid.T, key *storage.APIKey) {
	if key.Revoked.IsZero() {
		real, err := m.a.Key(context.Background(), key.ID)
		expect(t, "Key", err, nil)
		key.Revoked = m.now(t, "Revoked", real.Revoked)
	}
	maps.DeleteFunc(m.sessions, func(_ string, s *modelSession) bool { return s.key == key.ID })
}

// signedIn tells whether a person has a session now.
func (m *accountsModel) signedIn(person int64) bool {
	for _, s := range m.sessions {
		if s.person == person && s.expires.After(at(0)) {
			return true
		}
	}
	return false
}

// newKey draws a key that may be added.
func (m *accountsModel) newKey(t *rapid.T, person int64) *storage.APIKey {
	key := &storage.APIKey{
		ID: m.name("key"), Label: anyName.Draw(t, "label"), Person: person, Scopes: anyGroups.Draw(t, "scopes"),
		Created: anyTime.Draw(t, "created"), Expires: anyEnd.Draw(t, "expires"), Lifetime: day,
	}
	if person == 0 {
		key.Owner, key.Groups = anyName.Draw(t, "owner"), anyGroups.Draw(t, "groups")
	}
	return key
}

func (m *accountsModel) addKey(t *rapid.T) {
	key := m.newKey(t, drawFrom(t, "person", m.people, 0))
	var want error
	if key.Person != 0 && !m.signedIn(key.Person) {
		want = storage.ErrSessionUnknown
	}
	expect(t, "AddKey", m.a.AddKey(context.Background(), *key, hashOf(key.ID)), want)
	if want == nil {
		m.keys[key.ID] = key
	}
}

func (m *accountsModel) key(t *rapid.T) (string, *storage.APIKey, error) {
	id := drawFrom(t, "key", m.keys, m.prefix+"absent")
	if key := m.keys[id]; key != nil {
		return id, key, nil
	}
	return id, nil, storage.ErrKeyUnknown
}

func (m *accountsModel) revokeKey(t *rapid.T) {
	id, key, want := m.key(t)
	expect(t, "RevokeKey", m.a.RevokeKey(context.Background(), id), want)
	if want == nil {
		m.revoke(t, key)
	}
}

func (m *accountsModel) rotateKey(t *rapid.T) {
	id, old, want := m.key(t)
	var person int64
	if old != nil {
		if person = old.Person; old.Ended(at(0)) {
			want = storage.ErrKeyEnded
		}
	}
	next, grace := m.newKey(t, person), anyTime.Draw(t, "grace ends")
	expect(t, "RotateKey", m.a.RotateKey(context.Background(), id, *next, hashOf(next.ID), grace), want)
	if want != nil {
		return
	}
	if previous := m.keys[old.Successor]; previous != nil && previous.LastUsed.IsZero() {
		m.revoke(t, previous)
	}
	m.keys[next.ID] = next
	old.Successor = next.ID
	if old.Expires.IsZero() || grace.Before(old.Expires) {
		old.Expires = grace
	}
}

func (m *accountsModel) keyUsed(t *rapid.T) {
	id, key, unknown := m.key(t)
	used := anyTime.Draw(t, "used")
	m.a.KeyUsed(id, used)
	if unknown == nil && used.After(key.LastUsed) {
		key.LastUsed = used
	}
}

func (m *accountsModel) flushUsed(t *rapid.T) {
	expect(t, "FlushUsed", m.a.FlushUsed(context.Background()), nil)
}

func (m *accountsModel) beginKeySession(t *rapid.T) {
	id, _, want := m.key(t)
	secret, expires := m.name("session"), anyTime.Draw(t, "expires")
	err := m.a.BeginKeySession(context.Background(), id, hashOf(secret), storage.Session{Created: at(0), Expires: expires})
	expect(t, "BeginKeySession", err, want)
	if want == nil {
		m.sessions[secret] = &modelSession{key: id, expires: expires}
	}
}

func (m *accountsModel) endSession(t *rapid.T) {
	secret := drawFrom(t, "session", m.sessions, m.prefix+"absent")
	expect(t, "EndSession", m.a.EndSession(context.Background(), hashOf(secret)), nil)
	delete(m.sessions, secret)
}

func (m *accountsModel) expireAccounts(t *rapid.T) {
	now := rapid.Map(rapid.SampledFrom([]time.Duration{-day, 0, hour, 89 * day, 91 * day}), at).Draw(t, "now")
	expect(t, "ExpireAccounts", m.a.ExpireAccounts(context.Background(), now), nil)
	long := now.Add(-90 * day)
	maps.DeleteFunc(m.keys, func(_ string, key *storage.APIKey) bool {
		return !key.Expires.IsZero() && key.Expires.Before(long) || !key.Revoked.IsZero() && key.Revoked.Before(long)
	})
	maps.DeleteFunc(m.sessions, func(_ string, s *modelSession) bool {
		return !s.expires.After(now) || s.key != "" && m.keys[s.key] == nil
	})
}

func (m *accountsModel) addSigningKey(t *rapid.T) {
	key := storage.SigningKey{ID: m.name("signing"), Created: anyTime.Draw(t, "created"), Sealed: []byte(m.prefix)}
	since := anyTime.Draw(t, "unless since")
	young := slices.ContainsFunc(m.signing, func(k storage.SigningKey) bool { return !k.Created.Before(since) })
	if added, err := m.a.AddSigningKey(context.Background(), key, since); err != nil || added == young {
		t.Fatalf("AddSigningKey = %t, %v, want %t", added, err, !young)
	}
	if !young {
		m.signing = append(m.signing, key)
	}
}

func (m *accountsModel) deleteSigningKeys(t *rapid.T) {
	before := anyTime.Draw(t, "before")
	expect(t, "DeleteSigningKeys", m.a.DeleteSigningKeys(context.Background(), before), nil)
	m.signing = slices.DeleteFunc(m.signing, func(k storage.SigningKey) bool { return k.Created.Before(before) })
}

// seen is a key of the model as it is to be told.
func (m *accountsModel) seen(key *storage.APIKey) storage.APIKey {
	told := *key
	if key.Person != 0 {
		told.Owner, told.Groups, told.Version = m.people[key.Person].Name, m.people[key.Person].Groups, version
	}
	return told
}

func (m *accountsModel) checkKeys(t *rapid.T) {
	ctx := context.Background()
	var want []storage.APIKey
	for _, key := range m.keys {
		want = append(want, m.seen(key))
		if err := checkKey(m.a, m.seen(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkNoKey(m.a, m.prefix+"absent"); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(want, func(a, b storage.APIKey) int {
		return cmp.Or(b.Created.Compare(a.Created), strings.Compare(a.ID, b.ID))
	})
	got, err := m.a.Keys(ctx)
	got = slices.DeleteFunc(got, func(key storage.APIKey) bool { return !strings.HasPrefix(key.ID, m.prefix) })
	if err != nil || !slices.EqualFunc(got, want, sameKey) {
		t.Fatalf("Keys = %+v, %v, want %+v", got, err, want)
	}
	for id := range m.people {
		persons := slices.DeleteFunc(slices.Clone(want), func(key storage.APIKey) bool { return key.Person != id })
		if got, err := m.a.KeysOf(ctx, id); err != nil || !slices.EqualFunc(got, persons, sameKey) {
			t.Fatalf("KeysOf = %+v, %v, want %+v", got, err, persons)
		}
	}
}

func sameKey(a, b storage.APIKey) bool { return reflect.DeepEqual(a, b) }

func (m *accountsModel) checkSession(secret string, want *modelSession, now time.Time) error {
	got, err := m.a.Session(context.Background(), hashOf(secret), now)
	if !want.expires.After(now) || want.key != "" && m.keys[want.key].Ended(now) {
		if !errors.Is(err, storage.ErrSessionUnknown) {
			return fmt.Errorf("is %+v, %w, want that it is over", got, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if want.key != "" {
		key := m.seen(m.keys[want.key])
		if key.LastUsed = (time.Time{}); got.Person != nil || !reflect.DeepEqual(*got.Key, key) {
			return fmt.Errorf("is %+v, want one of %+v", got, key)
		}
		return nil
	}
	if got.Key != nil || !reflect.DeepEqual(got.Person, m.people[want.person]) {
		return fmt.Errorf("is %+v, want one of %+v", got, m.people[want.person])
	}
	return nil
}
