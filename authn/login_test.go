package authn

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
	"github.com/eblume/caddy-registry/storage"
)

func TestAPersonSignsInAndGoesOnWhereTheyWere(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	for wanted, want := range map[string]string{"/user/apikey?x=1": "/user/apikey?x=1", "": "/", "https://evil.test/": "/", "//evil.test": "/"} {
		b := s.newBrowser(server)
		query, err := b.begin(&s.Providers[0], wanted)
		if err != nil {
			t.Fatal(err)
		}
		location, err := b.finish(&s.Providers[0], query)
		if err != nil || location != want {
			t.Errorf("%q leads to %q, %v", wanted, location, err)
		}
		caller := b.caller()
		if caller.Name != "alice" || strings.Join(caller.Groups, " ") != "writers" || caller.Session == nil {
			t.Errorf("%+v", caller)
		}
		person := caller.Session.Person
		if person.Subject != "id-alice" || person.Issuer != strings.TrimSuffix(server.Issuer(), "/") || person.ClientID != oidctest.ClientID || person.RefreshToken == nil {
			t.Errorf("%+v", person)
		}
		if len(b.cookies) != 1 {
			t.Errorf("cookies %v stay", b.cookies)
		}
	}
	if audit := s.audit.String(); !strings.Contains(audit, "msg=login user=alice") || strings.Contains(audit, "login_failed") {
		t.Errorf("audited %s", audit)
	}
}

func TestWhatIsKeptOfALoginIsEncrypted(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	b := s.newBrowser(server)
	query := b.mustBegin(&s.Providers[0])
	if _, value := b.cookie("registry_login_"); value == "" || strings.Contains(value, query.Get("state")) {
		t.Errorf("cookie %q", value)
	}
	if _, err := b.finish(&s.Providers[0], query); err != nil {
		t.Fatal(err)
	}
	session := b.caller().Session
	if idToken, err := s.Sealer.Open(session.IDToken, forLogout); err != nil || strings.Count(string(idToken), ".") != 2 {
		t.Errorf("ID token %q, %v", idToken, err)
	}
	if token, err := s.Sealer.Open(session.Person.RefreshToken, forRefresh); err != nil || !strings.HasPrefix(string(token), "refresh-") {
		t.Errorf("refresh token %q, %v", token, err)
	}
}

func TestSeveralTabsSignIn(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	b := s.newBrowser(server)
	first, second := b.mustBegin(&s.Providers[0]), b.mustBegin(&s.Providers[0])
	for _, query := range []url.Values{second, first} {
		if _, err := b.finish(&s.Providers[0], query); err != nil {
			t.Error(err)
		}
	}
}

func TestEachLoginHasASecretOfItsOwn(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	b := s.newBrowser(server)
	name := "__Host-registry_session"
	b.cookies[name] = "planted-by-somebody-else"
	b.signIn(&s.Providers[0])
	first := b.cookies[name]
	if first == "planted-by-somebody-else" || len(first) < 50 {
		t.Errorf("the secret is %q", first)
	}
	b.signIn(&s.Providers[0])
	if b.cookies[name] == first {
		t.Error("the secret stays when somebody signs in again")
	}
	wantAnonymous(t, s.identify(newRequest(http.MethodGet, "https://registry.test/", "Cookie", name+"="+first)))
	_, key := s.addKey(storage.APIKey{})
	before := b.cookies[name]
	w := httptest.NewRecorder()
	if err := s.LoginWithKey(w, b.request("/auth/session"), " "+key+"\n"); err != nil {
		t.Fatal(err)
	}
	b.take(w)
	if b.caller().Key == nil || b.cookies[name] == before {
		t.Error("the secret stays when somebody signs in with a key")
	}
	wantAnonymous(t, s.identify(newRequest(http.MethodGet, "https://registry.test/", "Cookie", name+"="+before)))
}

func TestCookiesAreOnlyForThisSite(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	for _, test := range []struct {
		origin, prefix string
		secure         bool
	}{{"https://registry.test", "__Host-", true}, {"http://registry.test", "", false}} {
		b := s.newBrowser(server)
		b.origin = test.origin
		check := func(names ...string) {
			t.Helper()
			if len(b.set) != len(names) {
				t.Errorf("%s: set %v, want %v", test.origin, b.set, names)
				return
			}
			for i, cookie := range b.set {
				if !strings.HasPrefix(cookie.Name, test.prefix+names[i]) || cookie.Path != "/" || cookie.Domain != "" || !cookie.HttpOnly ||
					cookie.Secure != test.secure || cookie.SameSite != http.SameSiteLaxMode || cookie.MaxAge == 0 {
					t.Errorf("%s: %v, want %s", test.origin, cookie, names[i])
				}
			}
		}
		query := b.mustBegin(&s.Providers[0])
		check("registry_login_")
		if age := b.set[0].MaxAge; age != int(loginTime.Seconds()) {
			t.Errorf("%d s to sign in", age)
		}
		if _, err := b.finish(&s.Providers[0], query); err != nil {
			t.Fatal(err)
		}
		check("registry_login_", "registry_session")
		if b.set[0].MaxAge >= 0 || b.set[1].MaxAge != int(sessionLifetime.Seconds()) {
			t.Errorf("%v", b.set)
		}
		w := httptest.NewRecorder()
		if _, err := s.Logout(w, b.request("/auth/logout"), b.caller(), "/login"); err != nil {
			t.Fatal(err)
		}
		b.take(w)
		check("registry_session")
		if b.set[0].MaxAge >= 0 || len(b.cookies) != 0 {
			t.Errorf("%v, left %v", b.set, b.cookies)
		}
	}
}

func TestSigningInBeginsWhereTheSiteIsPublic(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	s.PublicURL = "https://public.test"
	w := httptest.NewRecorder()
	if err := s.BeginLogin(w, newRequest(http.MethodGet, "http://internal:5000/auth/login/idp?return=/a%3Fb"), &s.Providers[0]); err != nil {
		t.Fatal(err)
	}
	if location := w.Header().Get("Location"); location != "https://public.test/auth/login/idp?moved=1&return=%2Fa%3Fb" || len(w.Result().Cookies()) != 0 {
		t.Errorf("%s, %v", location, w.Result().Cookies())
	}
	for _, target := range []string{"https://public.test/auth/login/idp", "http://behind-a-proxy/auth/login/idp?moved=1"} {
		w := httptest.NewRecorder()
		if err := s.BeginLogin(w, newRequest(http.MethodGet, target), &s.Providers[0]); err != nil {
			t.Fatal(err)
		}
		location, err := url.Parse(w.Header().Get("Location"))
		if err != nil || location.Query().Get("redirect_uri") != "https://public.test/auth/callback/idp" {
			t.Errorf("%s: %v, %v", target, location, err)
		}
	}
}

func TestSigningOutEndsTheSessionHereAndLeadsToTheProvider(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(newProvider(t), "other")
	s.addProvider(server, "idp")
	b := s.newBrowser(server)
	b.signIn(&s.Providers[1])
	_, secret := b.cookie("session")
	target := b.logout(t)
	u, err := url.Parse(target)
	if err != nil || !strings.HasPrefix(target, server.URL()) || strings.Count(u.Query().Get("id_token_hint"), ".") != 2 ||
		u.Query().Get("post_logout_redirect_uri") != "https://registry.test/login?signed_out=1" {
		t.Errorf("%s, %v", target, err)
	}
	wantAnonymous(t, s.identify(newRequest(http.MethodGet, "https://registry.test/", "Cookie", "__Host-registry_session="+secret)))
	if !strings.Contains(s.audit.String(), "msg=logout user=alice") {
		t.Errorf("audited %s", &s.audit)
	}
}

func (b *browser) logout(t *testing.T) string {
	t.Helper()
	w := httptest.NewRecorder()
	target, err := b.site.Logout(w, b.request("/auth/logout"), b.caller(), "/login?signed_out=1")
	if err != nil {
		t.Fatal(err)
	}
	b.take(w)
	return target
}

func TestSigningOutWhereNoProviderIsToldOfIt(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	_, key := s.addKey(storage.APIKey{Lifetime: time.Hour})
	for name, signIn := range map[string]func(b *browser){
		"anonymous": func(*browser) {},
		"with a key": func(b *browser) {
			w := httptest.NewRecorder()
			if err := s.LoginWithKey(w, b.request("/auth/session"), key); err != nil {
				t.Fatal(err)
			}
			b.take(w)
		},
		"of a provider that is configured no more": func(b *browser) {
			b.signIn(&s.Providers[0])
			s.Providers = nil
		},
	} {
		kept := s.Providers
		b := s.newBrowser(server)
		signIn(b)
		if target := b.logout(t); target != "" {
			t.Errorf("%s: %s", name, target)
		}
		wantAnonymous(t, b.caller())
		s.Providers = kept
	}
	b := s.newBrowser(server)
	b.signIn(&s.Providers[0])
	s.Sealer = newTestSealer(t) // the key for secrets was lost
	if target := b.logout(t); target != "" {
		t.Errorf("%s", target)
	}
	wantAnonymous(t, b.caller())
}

func TestAKeyThatIsNotRightSignsNobodyIn(t *testing.T) {
	s := newSite(t)
	w := httptest.NewRecorder()
	r := newRequest(http.MethodPost, "/auth/session", "Cookie", s.signIn("alice"))
	for text, reason := range map[string]string{newKey(): "unknown", "crk_cut": "malformed", "": "malformed", "a.b.c": "malformed"} {
		wantBad(t, s.LoginWithKey(w, r, text), reason, "API key")
	}
	if caller := s.identify(r); caller.Identity == nil || len(w.Result().Cookies()) != 0 {
		t.Errorf("the session that was there became %+v, set %v", caller, w.Result().Cookies())
	}
}
