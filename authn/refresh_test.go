package authn

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
	"github.com/eblume/caddy-registry/storage"
)

// signedIn is alice, with a browser, a key and a token for it.
type signedIn struct {
	*site
	server     *oidctest.Server
	browser    *browser
	key, token string
}

// refreshing runs a test in a bubble of synctest, in which alice signed in.
func refreshing(t *testing.T, test func(t *testing.T, a *signedIn)) {
	server := newProvider(t)
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.addProvider(server, "idp")
		a := &signedIn{site: s, server: server, browser: s.newBrowser(server)}
		a.browser.signIn(&s.Providers[0])
		name, value := a.browser.cookie("session")
		r := newRequest(http.MethodPost, "https://registry.test/auth/apikey", "Cookie", name+"="+value)
		var err error
		if _, a.key, err = s.MakeKey(r, s.identify(r), KeyRequest{}); err != nil {
			t.Fatal(err)
		}
		a.token = s.fetch(bearer(a.key), "").Token
		test(t, a)
	})
}

// ask waits until it is time, and asks the provider about everybody.
func (a *signedIn) ask(t *testing.T) {
	t.Helper()
	time.Sleep(a.Providers[0].Refresh)
	refresher := Refresher{Accounts: a.Accounts, Sealer: a.Sealer, Provider: a.Providers[0], Log: a.Log, Audit: a.Audit}
	if err := refresher.refreshDue(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// wantGroups checks what alice is, by all that she has.
func (a *signedIn) wantGroups(t *testing.T, groups string) {
	t.Helper()
	a.token = a.fetch(bearer(a.key), "").Token // the last may have expired
	for name, caller := range map[string]*Caller{
		"session": a.browser.caller(), "key": a.whoHas(bearer(a.key)...), "token": a.whoHas(bearer(a.token)...),
	} {
		if caller.Identity == nil || caller.Name != "alice" || strings.Join(caller.Groups, " ") != groups {
			t.Errorf("%s: %+v, want groups %q", name, caller.Identity, groups)
		}
	}
}

func TestGroupsFollowTheProvider(t *testing.T) {
	refreshing(t, func(t *testing.T, a *signedIn) {
		for _, groups := range []string{"admins", "", "others writers"} { // each time with another refresh token
			a.server.SetUser("alice", oidctest.Claims{"groups": strings.Fields(groups)})
			a.ask(t)
			a.wantGroups(t, groups)
		}
	})
}

func TestNobodyIsAskedAboutTooOften(t *testing.T) {
	refreshing(t, func(t *testing.T, a *signedIn) {
		refresher := Refresher{Accounts: a.Accounts, Sealer: a.Sealer, Provider: a.Providers[0], Log: a.Log, Audit: a.Audit}
		asked := a.server.Requests(oidctest.Token)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { refresher.Run(ctx); close(done) }()
		time.Sleep(a.Providers[0].Refresh * 7 / 10)
		if got := a.server.Requests(oidctest.Token); got != asked {
			t.Errorf("asked %d times too early", got-asked)
		}
		a.server.SetUser("alice", oidctest.Claims{"groups": []string{"admins"}})
		time.Sleep(a.Providers[0].Refresh * 3 / 10)
		a.wantGroups(t, "admins")
		if got := a.server.Requests(oidctest.Token); got != asked+1 {
			t.Errorf("asked %d times", got-asked)
		}
		cancel()
		<-done
	})
}

func TestOnlyAClearNoEndsAPerson(t *testing.T) {
	refreshing(t, func(t *testing.T, a *signedIn) {
		a.server.Disable("alice")
		a.ask(t)
		wantAnonymous(t, a.browser.caller())
		a.wantRefused("revoked", "was revoked on", bearer(a.key)...)
		if audit := a.audit.String(); !strings.Contains(audit, "msg=person_ended user=alice") {
			t.Errorf("audited %s", audit)
		}
		a.server.SetUser("alice", oidctest.Claims{"groups": []string{"writers"}})
		a.browser.signIn(&a.Providers[0])
		if caller := a.browser.caller(); caller.Identity == nil {
			t.Error("she cannot sign in again")
		}
		a.wantRefused("revoked", "was revoked on", bearer(a.key)...)
	})
}

func TestAnyOtherAnswerEndsNothing(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"a failure":             oidctest.Status(500),
		"maintenance":           oidctest.Status(503),
		"too many requests":     oidctest.Status(429),
		"a wrong client secret": oidctest.OAuthError(401, "invalid_client", "who?"),
		"another refusal":       oidctest.OAuthError(400, "unauthorized_client", ""),
		"none at all":           oidctest.Hang,
	} {
		t.Run(name, func(t *testing.T) {
			refreshing(t, func(t *testing.T, a *signedIn) {
				a.server.Handle(oidctest.Token, answer)
				a.ask(t)
				a.wantGroups(t, "writers")
				if log := a.log.String(); !strings.Contains(log, "does not answer about a person") || strings.Contains(log, "refresh-") {
					t.Errorf("logged %s", log)
				}
				a.server.Handle(oidctest.Token, nil)
				a.server.SetUser("alice", oidctest.Claims{"groups": []string{"admins"}})
				a.ask(t)
				a.wantGroups(t, "admins")
			})
		})
	}
	refreshing(t, func(t *testing.T, a *signedIn) {
		a.server.Down()
		a.ask(t)
		a.wantGroups(t, "writers")
	})
}

// The provider took the refresh token and gave another: the old one would be refused.
func TestANewRefreshTokenIsKeptThoughTheRestOfTheAnswerFails(t *testing.T) {
	refreshing(t, func(t *testing.T, a *signedIn) {
		a.server.RefreshWithoutIDToken(true)
		a.server.Handle(oidctest.Userinfo, oidctest.Status(503))
		a.ask(t)
		a.wantGroups(t, "writers")
		a.server.Handle(oidctest.Userinfo, nil)
		a.server.SetUser("alice", oidctest.Claims{"groups": []string{"admins"}})
		a.ask(t)
		a.wantGroups(t, "admins")
	})
}

func TestALostKeyForSecretsForgetsTheRefreshTokenAndNothingElse(t *testing.T) {
	refreshing(t, func(t *testing.T, a *signedIn) {
		a.Sealer = newTestSealer(t)
		a.Tokens = NewTokens(a.Accounts, a.Sealer, a.Log)
		asked := a.server.Requests(oidctest.Token)
		a.ask(t)
		a.ask(t)
		a.wantGroups(t, "writers")
		if a.browser.caller().Session.Person.RefreshToken != nil || a.server.Requests(oidctest.Token) != asked {
			t.Error("the refresh token is kept, or sent")
		}
		if got := strings.Count(a.log.String(), "a refresh token is lost"); got != 1 {
			t.Errorf("logged %d times", got)
		}
	})
}

func TestOfSeveralWhoAskOneDoes(t *testing.T) {
	refreshing(t, func(t *testing.T, a *signedIn) {
		time.Sleep(a.Providers[0].Refresh)
		asked := a.server.Requests(oidctest.Token)
		failed := make(chan error)
		for range 4 {
			refresher := Refresher{Accounts: a.Accounts, Sealer: a.Sealer, Provider: a.Providers[0], Log: a.Log, Audit: a.Audit}
			go func() { failed <- refresher.refreshDue(context.Background()) }()
		}
		for range 4 {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		if got := a.server.Requests(oidctest.Token) - asked; got != 1 {
			t.Errorf("asked %d times", got)
		}
		a.wantGroups(t, "writers")
	})
}

// Providers end what was given before when somebody signs in anew.
func TestAnAnswerAboutAnEarlierSignInChangesNothing(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"no": oidctest.OAuthError(400, "invalid_grant", ""), "yes": nil} {
		t.Run(name, func(t *testing.T) {
			refreshing(t, func(t *testing.T, a *signedIn) {
				secret := sha256.Sum256([]byte("new"))
				a.server.Handle(oidctest.Token, func(w http.ResponseWriter, r *http.Request) {
					person := *a.browser.caller().Session.Person
					person.Groups, person.RefreshToken = []string{"admins"}, a.Sealer.sealText("new", forRefresh)
					_, err := a.Accounts.SignIn(r.Context(), person, secret, storage.Session{Created: time.Now(), Expires: time.Now().Add(time.Hour)})
					if err != nil {
						t.Error(err)
					}
					if answer == nil {
						a.server.Answer(w, r)
					} else {
						answer(w, r)
					}
				})
				a.ask(t)
				a.wantGroups(t, "admins")
				if token, err := a.Sealer.Open(a.browser.caller().Session.Person.RefreshToken, forRefresh); err != nil || string(token) != "new" {
					t.Errorf("the refresh token is %q, %v", token, err)
				}
			})
		})
	}
}

func TestAChangeOfConfigurationLosesNoAnswer(t *testing.T) {
	refreshing(t, func(t *testing.T, a *signedIn) {
		ctx, cancel := context.WithCancel(context.Background())
		a.server.Handle(oidctest.Token, func(w http.ResponseWriter, r *http.Request) {
			cancel()
			a.server.Answer(w, r)
		})
		a.server.SetUser("alice", oidctest.Claims{"groups": []string{"admins"}})
		time.Sleep(a.Providers[0].Refresh)
		refresher := Refresher{Accounts: a.Accounts, Sealer: a.Sealer, Provider: a.Providers[0], Log: a.Log, Audit: a.Audit}
		refresher.Run(ctx)
		a.server.Handle(oidctest.Token, nil)
		a.wantGroups(t, "admins")
		a.ask(t)
		a.wantGroups(t, "admins")
	})
}
