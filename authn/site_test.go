package authn

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	day90  = 90 * 24 * time.Hour
	day365 = 365 * 24 * time.Hour
)

// site is one with a real database, and what it counts and logs.
type site struct {
	*Site
	t          testing.TB
	database   storage.Database
	failed     map[string]int
	audit, log bytes.Buffer
}

func newSite(t testing.TB) *site {
	t.Helper()
	database, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "registry.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := database.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, database: database, failed: map[string]int{}}
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	accounts, sealer := storage.NewAccounts(database), newTestSealer(t)
	s.Site = &Site{
		Accounts: accounts, Tokens: NewTokens(accounts, sealer, log), Sealer: sealer, Throttle: NewThrottle(), Once: NewOnce(),
		Keys:     KeyRules{Lifetime: day90, MaxLifetime: day365, Grace: 24 * time.Hour},
		Policies: sitePolicies,
		Admins:   []authz.Subject{{Kind: authz.Group, Name: "admins"}},
		// One name has a host and its port, as those of a cache may.
		Candidates: func(name string) []string { return []string{strings.TrimPrefix(name, "mirror.test:5000/")} },
		Address: func(r *http.Request) string {
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			return host
		},
		Secure: func(r *http.Request) bool { return r.TLS != nil },
		Failed: func(reason string) { s.failed[reason]++ },
		Log:    log,
		Audit:  slog.New(slog.NewTextHandler(&s.audit, nil)),
	}
	return s
}

func newTestSealer(t testing.TB) *Sealer {
	t.Helper()
	key := make([]byte, SealKeySize)
	_, _ = rand.Read(key) // never fails
	sealer, err := NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	return sealer
}

var sitePolicies = authz.Policies{
	{Repositories: []string{"public/**"}, Rules: []authz.Rule{
		{Subject: authz.Subject{Kind: authz.Anonymous}, Actions: authz.Read, Line: "anonymous read"},
		{Subject: authz.Subject{Kind: authz.Group, Name: "writers"}, Actions: authz.Create, Line: "group writers create"},
		{Subject: authz.Subject{Kind: authz.Group, Name: "admins"}, Actions: authz.Read | authz.Push | authz.Delete, Line: "group admins read create update delete"},
	}},
	{Repositories: []string{"team/**"}, Rules: []authz.Rule{
		{Subject: authz.Subject{Kind: authz.Group, Name: "writers"}, Actions: authz.Read, Line: "group writers read"},
		{Subject: authz.Subject{Kind: authz.Group, Name: "writers"}, Actions: authz.Update, Tags: []string{"latest"}, Line: "group writers update tags latest"},
	}},
}

// testIssuer is that of a provider which is never asked.
const testIssuer = "https://idp.test"

// signIn begins a session as a provider's answer does, and returns its cookie.
func (s *site) signIn(name string, groups ...string) string {
	s.t.Helper()
	unasked := oidc.NewProvider(oidc.Config{Name: "unasked", Issuer: testIssuer, ClientID: "idp"})
	if !s.knowsPeopleOf(unasked.Version()) {
		s.Providers = append(s.Providers, Provider{Provider: unasked})
	}
	secret, now := newSecret(), time.Now()
	person := storage.Person{Issuer: testIssuer, Subject: "id-" + name, ClientID: "idp", Version: unasked.Version(), Name: name, Groups: groups}
	_, err := s.Accounts.SignIn(context.Background(), person, sha256.Sum256([]byte(secret)), storage.Session{Created: now, Expires: now.Add(sessionLifetime)})
	if err != nil {
		s.t.Fatal(err)
	}
	return "registry_session=" + secret
}

// addKey makes a key as the command line does, of alice for 90 days unless key says
// otherwise.
func (s *site) addKey(key storage.APIKey) (storage.APIKey, string) {
	s.t.Helper()
	if key.Owner == "" {
		key.Owner, key.Groups = "alice", []string{"writers"}
	}
	if key.Lifetime == 0 {
		key.Lifetime = day90
	}
	added, text, err := AddKey(context.Background(), s.Accounts, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return added, text
}

// makeKey makes a key of whoever has a session.
func (s *site) makeKey(cookie string, wanted KeyRequest) (storage.APIKey, string) {
	s.t.Helper()
	r := newRequest(http.MethodPost, "/auth/apikey", "Cookie", cookie)
	key, text, err := s.MakeKey(r, s.identify(r), wanted)
	if err != nil {
		s.t.Fatal(err)
	}
	return key, text
}

// loginWithKey returns the cookie of a session that a key began.
func (s *site) loginWithKey(text string) string {
	s.t.Helper()
	w := httptest.NewRecorder()
	if err := s.LoginWithKey(w, newRequest(http.MethodPost, "/auth/session"), text); err != nil {
		s.t.Fatal(err)
	}
	cookie := w.Result().Cookies()[0]
	return cookie.Name + "=" + cookie.Value
}

// newRequest returns a request with headers, given as names and values.
func newRequest(method, target string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// identify returns who sent a request, which must be right.
func (s *site) identify(r *http.Request) *Caller {
	s.t.Helper()
	caller, err := s.Identify(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return caller
}

// whoHas returns whom headers prove.
func (s *site) whoHas(headers ...string) *Caller {
	s.t.Helper()
	return s.identify(newRequest(http.MethodGet, "/v2/", headers...))
}

// wantRefused checks that headers prove nobody, for a reason and in words that say it.
func (s *site) wantRefused(reason, words string, headers ...string) {
	s.t.Helper()
	caller, err := s.Identify(newRequest(http.MethodGet, "/v2/", headers...))
	wantBad(s.t, err, reason, words)
	if caller != nil {
		s.t.Errorf("the caller is %v nevertheless", caller)
	}
}

func wantBad(t testing.TB, err error, reason, words string) {
	t.Helper()
	var bad *CredentialsError
	if !errors.As(err, &bad) || bad.Reason != reason || !strings.Contains(err.Error(), words) {
		t.Errorf("error %v, want %s with %q", err, reason, words)
	}
}

func bearer(text string) []string { return []string{"Authorization", "Bearer " + text} }

func basic(user, password string) []string {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth(user, password)
	return []string{"Authorization", r.Header.Get("Authorization")}
}
