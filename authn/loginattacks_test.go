package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
	"github.com/eblume/caddy-registry/storage"
)

func TestLoginsThatAreRefused(t *testing.T) {
	server, other := newProvider(t), newProvider(t)
	const otherBrowser = "was not begun in this browser"
	for _, test := range []struct {
		name string
		// change changes what the browser comes back with, or itself.
		change func(t *testing.T, b *browser, query url.Values)
		status int
		words  string
	}{
		{"another state", func(_ *testing.T, _ *browser, query url.Values) {
			query.Set("state", query.Get("state")+"x")
		}, 400, otherBrowser},
		{"a state that only begins like it", func(_ *testing.T, _ *browser, query url.Values) {
			query.Set("state", query.Get("state")[:8])
		}, 400, otherBrowser},
		{"no state", func(_ *testing.T, _ *browser, query url.Values) { query.Del("state") }, 400, otherBrowser},
		{"a state that is no cookie's name", func(_ *testing.T, _ *browser, query url.Values) {
			query.Set("state", "; a=b\r\n")
		}, 400, otherBrowser},
		{"the state of another browser", func(t *testing.T, b *browser, query url.Values) {
			maps.Copy(query, b.site.newBrowser(server).mustBegin(&b.site.Providers[0]))
		}, 400, otherBrowser},
		{"the state of another browser under this one's name", func(t *testing.T, b *browser, query url.Values) {
			victim := b.site.newBrowser(server)
			maps.Copy(query, victim.mustBegin(&b.site.Providers[0]))
			name, _ := victim.cookie("login")
			_, own := b.cookie("login")
			b.cookies[name] = own
		}, 400, otherBrowser},
		{"no cookie", func(_ *testing.T, b *browser, _ url.Values) { clear(b.cookies) }, 400, otherBrowser},
		{"a changed cookie", func(_ *testing.T, b *browser, _ url.Values) {
			name, value := b.cookie("login")
			b.cookies[name] = "A" + value[1:] + "A"
		}, 400, otherBrowser},
		{"a cookie that is nothing", func(_ *testing.T, b *browser, _ url.Values) {
			name, _ := b.cookie("login")
			b.cookies[name] = "!"
		}, 400, otherBrowser},
		{"a cookie that was sealed for something else", func(_ *testing.T, b *browser, _ url.Values) {
			name, _ := b.cookie("login")
			b.cookies[name] = base64.RawURLEncoding.EncodeToString(b.site.Sealer.sealText("{}", forRefresh))
		}, 400, otherBrowser},
		{"a cookie that is no attempt", func(_ *testing.T, b *browser, _ url.Values) {
			name, _ := b.cookie("login")
			b.cookies[name] = base64.RawURLEncoding.EncodeToString(b.site.Sealer.sealText("{}", forLogin))
		}, 400, otherBrowser},
		{"too late", func(*testing.T, *browser, url.Values) { time.Sleep(loginTime + time.Second) }, 400, "more than ten minutes ago"},
		{"another issuer's answer", func(_ *testing.T, _ *browser, query url.Values) {
			query.Set("iss", other.Issuer())
		}, 401, "the answer is of issuer"},
		{"an error", func(_ *testing.T, _ *browser, query url.Values) {
			query.Del("code")
			query.Set("error", "access_denied")
			query.Set("error_description", "not you")
		}, 401, "idp did not sign you in: access_denied: not you"},
		{"an error and a code", func(_ *testing.T, _ *browser, query url.Values) {
			query.Set("error", "server_error")
		}, 401, "server_error"},
		{"no code", func(_ *testing.T, _ *browser, query url.Values) { query.Del("code") }, 401, "it sent no code"},
		{"another code", func(_ *testing.T, _ *browser, query url.Values) { query.Set("code", "guess") }, 401, "invalid_grant"},
		{"the code of another browser", func(_ *testing.T, b *browser, query url.Values) {
			query.Set("code", b.site.newBrowser(server).mustBegin(&b.site.Providers[0]).Get("code"))
		}, 401, "invalid_grant"},
		{"a code that was used", func(_ *testing.T, b *browser, query url.Values) {
			first := b.mustBegin(&b.site.Providers[0])
			if _, err := b.finish(&b.site.Providers[0], first); err != nil {
				b.site.t.Fatal(err)
			}
			query.Set("code", first.Get("code"))
			delete(b.cookies, "__Host-registry_session")
		}, 401, "invalid_grant"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.addProvider(server, "idp")
				b := s.newBrowser(server)
				query := b.mustBegin(&s.Providers[0])
				test.change(t, b, query)
				s.audit.Reset()
				location, err := b.finish(&s.Providers[0], query)
				wantLoginError(t, test.name, err, test.status, test.words)
				wantAnonymous(t, b.caller())
				if location != "" || s.failed["login"] != 1 || !strings.Contains(s.audit.String(), "login_failed") {
					t.Errorf("sent to %q, counted as %v, audited %s", location, s.failed, &s.audit)
				}
			})
		})
	}
}

func TestAStateIsUsedOnce(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	b := s.newBrowser(server)
	query := b.mustBegin(&s.Providers[0])
	kept := maps.Clone(b.cookies)
	if _, err := b.finish(&s.Providers[0], query); err != nil {
		t.Fatal(err)
	}
	thief := s.newBrowser(server)
	thief.cookies = kept
	asked := server.Requests(oidctest.Token)
	_, err := thief.finish(&s.Providers[0], query)
	wantLoginError(t, "again", err, http.StatusBadRequest, "has been used already")
	if server.Requests(oidctest.Token) != asked {
		t.Error("the provider is asked again")
	}
	wantAnonymous(t, thief.caller())
}

func TestAnAnswerOfOneProviderIsNoneOfAnother(t *testing.T) {
	s, server, evil := newSite(t), newProvider(t), newProvider(t)
	s.addProvider(server, "idp")
	s.addProvider(evil, "evil")
	b := s.newBrowser(server)
	query := b.mustBegin(&s.Providers[0])
	asked := evil.Requests(oidctest.Token)
	_, err := b.finish(&s.Providers[1], query)
	wantLoginError(t, "another callback", err, http.StatusBadRequest, "was not begun in this browser")
	if evil.Requests(oidctest.Token) != asked {
		t.Error("another provider is told the code")
	}
	wantAnonymous(t, b.caller())
}

func TestTheIssuerOfAnAnswerMayLackItsSlashOrBeMissing(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	for _, issuer := range []string{"", server.Issuer(), strings.TrimSuffix(server.Issuer(), "/")} {
		b := s.newBrowser(server)
		query := b.mustBegin(&s.Providers[0])
		query.Set("iss", issuer)
		if _, err := b.finish(&s.Providers[0], query); err != nil {
			t.Errorf("%q: %v", issuer, err)
		}
	}
}

func TestWhileTheProviderIsAwayNobodySignsInAndNobodyIsSignedOut(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	signedIn, late := s.newBrowser(server), s.newBrowser(server)
	signedIn.signIn(&s.Providers[0])
	query := late.mustBegin(&s.Providers[0])
	server.Down()
	_, err := late.finish(&s.Providers[0], query)
	wantLoginError(t, "coming back", err, http.StatusServiceUnavailable, "idp cannot be reached now")
	if caller := signedIn.caller(); caller.Name != "alice" {
		t.Errorf("%+v", caller)
	}
	again := newSite(t) // which does not know the provider yet
	again.addProvider(server, "idp")
	_, err = again.newBrowser(server).begin(&again.Providers[0], "/")
	wantLoginError(t, "going there", err, http.StatusServiceUnavailable, "idp cannot be reached now")
}

// broken is a database that nothing can be written to.
type broken struct{ storage.Database }

func (broken) Write(context.Context, func(storage.Tx) error) error {
	return errors.New("disk I/O error")
}

func TestALoginThatCannotBeKeptBeginsNoSession(t *testing.T) {
	s, server := newSite(t), newProvider(t)
	s.addProvider(server, "idp")
	b := s.newBrowser(server)
	query := b.mustBegin(&s.Providers[0])
	s.Accounts = storage.NewAccounts(broken{s.database})
	w := httptest.NewRecorder()
	err := s.FinishLogin(w, b.request("/auth/callback/idp?"+query.Encode()), &s.Providers[0])
	var told *LoginError
	if err == nil || errors.As(err, &told) || w.Header().Get("Location") != "" {
		t.Errorf("%v, %v", err, w.Header())
	}
	if b.take(w); len(b.cookies) != 0 {
		t.Errorf("cookies %v", b.cookies)
	}
}

func TestThingsAreDoneOnce(t *testing.T) {
	once := NewOnce()
	for _, id := range []string{"a", "b"} {
		if !once.Take(id) || once.Take(id) {
			t.Errorf("%s is not taken just once", id)
		}
	}
	taken := make(chan bool)
	for range 10 {
		go func() { taken <- once.Take("c") }()
	}
	count := 0
	for range 10 {
		if <-taken {
			count++
		}
	}
	if count != 1 {
		t.Errorf("taken %d times", count)
	}
}
