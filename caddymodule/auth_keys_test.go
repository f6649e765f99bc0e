package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// keyJSON is a key as the API tells it.
type keyJSON struct {
	UUID, Label, APIKey string
	CreatedAt           time.Time
	ExpirationDate      time.Time
	LastUsed            *time.Time
	Scopes              []string
	IsExpired           bool
	IsRevoked           bool
}

// madeKey returns the key that an answer tells.
func madeKey(t *testing.T, a answer) keyJSON {
	t.Helper()
	var key keyJSON
	if err := json.Unmarshal([]byte(a.body), &key); err != nil || a.status != http.StatusCreated || !strings.HasPrefix(key.APIKey, "crk_") {
		t.Fatalf("no key is made: %d %s", a.status, a.body)
	}
	return key
}

// listKeys returns the keys of a session.
func (s site) listKeys(session http.Header, path string) []keyJSON {
	s.t.Helper()
	a := s.send(session, http.MethodGet, path)
	var body struct{ APIKeys []keyJSON }
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || a.status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	return body.APIKeys
}

// fieldsOf returns the names of an object's fields, in order.
func fieldsOf(t *testing.T, object string) string {
	t.Helper()
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &fields); err != nil {
		t.Fatalf("%v: %s", err, object)
	}
	return strings.Join(slices.Sorted(maps.Keys(fields)), " ")
}

func TestAPIForKeysIsAsZotHasIt(t *testing.T) {
	g, _ := runWithProvider(t)
	for _, path := range []string{"/auth/apikey", "/zot/auth/apikey"} {
		session := g.signIn("idp")
		until := time.Now().Add(30 * 24 * time.Hour).UTC().Truncate(time.Second)
		body := fmt.Sprintf(`{"label":"ci","expirationDate":%q,"scopes":["read:blumeops/**","create:blumeops/**"]}`, until.Format(time.RFC3339))
		a := g.send(session, http.MethodPost, path, []byte(body)...)
		key := madeKey(t, a)
		if fields := fieldsOf(t, a.body); fields != "apiKey createdAt expirationDate isExpired isRevoked label lastUsed scopes uuid" {
			t.Errorf("%s: fields %s", path, fields)
		}
		if key.Label != "ci" || !key.ExpirationDate.Equal(until) || key.LastUsed != nil || key.IsExpired || key.IsRevoked || len(key.UUID) != 36 ||
			!slices.Equal(key.Scopes, []string{"read:blumeops/**", "create:blumeops/**"}) || time.Since(key.CreatedAt).Abs() > time.Minute {
			t.Errorf("%s: %s", path, a.body)
		}
		if a.header.Get("Content-Type") != "application/json" || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, a.header)
		}
		a = g.send(session, http.MethodGet, path)
		listed := g.listKeys(session, path)
		if len(listed) == 0 || listed[0].UUID != key.UUID && listed[len(listed)-1].UUID != key.UUID || strings.Contains(a.body, "apiKey\"") || strings.Contains(a.body, key.APIKey) {
			t.Errorf("%s: listed as %s", path, a.body)
		}
		if a := g.send(basic("alice", key.APIKey), http.MethodGet, "/v2/"); a.status != http.StatusOK {
			t.Errorf("%s: the key: %d %s", path, a.status, a.body)
		}
		if a := g.send(session, http.MethodDelete, path+"?id="+key.UUID); a.status != http.StatusOK {
			t.Errorf("%s: revoking it: %d %s", path, a.status, a.body)
		}
		if a := g.send(basic("alice", key.APIKey), http.MethodGet, "/v2/"); a.refusal() != "401 UNAUTHORIZED" {
			t.Errorf("%s: the key that was revoked: %d %s", path, a.status, a.body)
		}
	}
}

func TestAKeyLastsAsLongAsIsAllowed(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	g := runGuarded(t, provider("idp", idp)+"api_keys {\nlifetime 10d\nmax_lifetime 20d\n}\npolicy ** {\nauthenticated read\n}")
	session := g.signIn("idp")
	day := 24 * time.Hour
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	for body, want := range map[string]time.Duration{
		"":                                  10 * day,
		"{}":                                10 * day,
		`{"expirationDate":"","scopes":[]}`: 10 * day,
		`{"expirationDate":"` + date(19*day) + `","scopes":[""]}`: 19 * day,
	} {
		key := madeKey(t, g.send(session, http.MethodPost, "/auth/apikey", []byte(body)...))
		if got := key.ExpirationDate.Sub(key.CreatedAt); (got-want).Abs() > time.Minute || len(key.Scopes) != 0 {
			t.Errorf("%s: it lasts %s, want %s; scopes %q", body, got, want, key.Scopes)
		}
	}
	made := len(g.listKeys(session, "/auth/apikey"))
	for _, body := range []string{
		`{"expirationDate":"` + date(-time.Hour) + `"}`, `{"expirationDate":"` + date(21*day) + `"}`, `{"expirationDate":"2027-01-01"}`, `{"expirationDate":"soon"}`,
		`{"expirationDate":5}`, `{"scopes":"read:**"}`, `{"scopes":["read"]}`, `{"scopes":["pull:**"]}`, `{"scopes":["read:[" ]}`, `{"label":"a\u0000b"}`,
		`{"label":"` + strings.Repeat("x", 101) + `"}`, `{`, `[]`, `{} {}`, `{"label":"` + strings.Repeat("x", 70_000) + `"}`,
	} {
		a := g.send(session, http.MethodPost, "/auth/apikey", []byte(body)...)
		if a.status != http.StatusBadRequest || fieldsOf(t, a.body) != "error" {
			t.Errorf("%.80s: %d %s", body, a.status, a.body)
		}
	}
	if n := len(g.listKeys(session, "/auth/apikey")); n != made {
		t.Errorf("%d keys, want %d", n, made)
	}
}

// TestKeysAreTheirOwners has others, and keys, try what only their owner's session may.
func TestKeysAreTheirOwners(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	idp.SetUser("bob", nil)
	idp.SetUser("root", oidctest.Claims{"groups": []string{"admins"}})
	g := runGuarded(t, provider("idp", idp)+"policy ** {\nauthenticated read\n}\nadmins group admins")
	alice := g.signIn("idp")
	idp.SignInAs("bob")
	bob := g.signIn("idp")
	idp.SignInAs("root")
	root := g.signIn("idp")
	key := madeKey(t, g.send(alice, http.MethodPost, "/auth/apikey"))
	other := madeKey(t, g.send(alice, http.MethodPost, "/auth/apikey"))
	token := bearer(g.token(bearer(key.APIKey), "repository:a:pull"))
	admin := bearer(g.key("root", "--group", "admins"))
	if keys := g.listKeys(bob, "/auth/apikey"); len(keys) != 0 {
		t.Errorf("bob sees %v", keys)
	}
	for _, test := range []struct {
		who          string
		header       http.Header
		method, path string
		want         int
	}{
		{"bob", bob, http.MethodDelete, "/auth/apikey?id=" + key.UUID, http.StatusNotFound},
		{"alice, of no key,", alice, http.MethodDelete, "/auth/apikey?id=none", http.StatusNotFound},
		{"alice, of nothing,", alice, http.MethodDelete, "/auth/apikey", http.StatusNotFound},
		{"nobody", nil, http.MethodDelete, "/auth/apikey?id=" + key.UUID, http.StatusUnauthorized},
		{"nobody", nil, http.MethodGet, "/auth/apikey", http.StatusUnauthorized},
		{"nobody", nil, http.MethodPost, "/auth/apikey", http.StatusUnauthorized},
		{"nobody", nil, http.MethodPost, "/auth/apikey/rotate", http.StatusUnauthorized},
		{"a key", bearer(key.APIKey), http.MethodPost, "/auth/apikey", http.StatusForbidden},
		{"a key", bearer(key.APIKey), http.MethodGet, "/auth/apikey", http.StatusForbidden},
		{"a key, of another,", bearer(key.APIKey), http.MethodDelete, "/auth/apikey?id=" + other.UUID, http.StatusNotFound},
		{"an admin's key", admin, http.MethodDelete, "/auth/apikey?id=" + other.UUID, http.StatusNotFound},
		{"a token", token, http.MethodPost, "/auth/apikey", http.StatusForbidden},
		{"a token", token, http.MethodDelete, "/auth/apikey?id=" + key.UUID, http.StatusForbidden},
		{"a token", token, http.MethodPost, "/auth/apikey/rotate", http.StatusForbidden},
		{"a session", alice, http.MethodPost, "/auth/apikey/rotate", http.StatusUnauthorized},
		{"alice", alice, http.MethodPut, "/auth/apikey", http.StatusMethodNotAllowed},
		{"a key", bearer(key.APIKey), http.MethodGet, "/auth/apikey/rotate", http.StatusMethodNotAllowed},
	} {
		if a := g.send(test.header, test.method, test.path); a.status != test.want || fieldsOf(t, a.body) != "error" {
			t.Errorf("%s %s %s: %d %s, want %d", test.who, test.method, test.path, a.status, a.body, test.want)
		}
	}
	for _, k := range []keyJSON{key, other} {
		if a := g.send(bearer(k.APIKey), http.MethodGet, "/v2/"); a.status != http.StatusOK {
			t.Errorf("a key ended: %d %s", a.status, a.body)
		}
	}
	if a := g.send(bearer(key.APIKey), http.MethodDelete, "/auth/apikey?id="+key.UUID); a.status != http.StatusOK {
		t.Errorf("a key of itself: %d %s", a.status, a.body)
	}
	if a := g.send(root, http.MethodDelete, "/auth/apikey?id="+other.UUID); a.status != http.StatusOK {
		t.Errorf("an admin: %d %s", a.status, a.body)
	}
	for _, k := range []keyJSON{key, other} {
		if a := g.send(bearer(k.APIKey), http.MethodGet, "/v2/"); a.refusal() != "401 UNAUTHORIZED" || !strings.Contains(a.message(), "revoked") {
			t.Errorf("a key that was ended: %d %s", a.status, a.body)
		}
	}
}

func TestAKeyIsTakenWithItsOwnersNameOnly(t *testing.T) {
	g := runGuarded(t, "policy ** {\nauthenticated read\n}")
	key := g.key("ci")
	for user, want := range map[string]int{"ci": http.StatusOK, "root": http.StatusUnauthorized, "": http.StatusUnauthorized, "CI": http.StatusUnauthorized, "ci ": http.StatusUnauthorized} {
		if a := g.send(basic(user, key), http.MethodGet, "/v2/"); a.status != want {
			t.Errorf("%q: %d %s", user, a.status, a.body)
		}
	}
	if a := g.send(bearer(key), http.MethodGet, "/v2/"); a.status != http.StatusOK {
		t.Errorf("Bearer: %d %s", a.status, a.body)
	}
}
