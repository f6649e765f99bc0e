package oidc_test

import (
	"errors"
	"net/http"
	"reflect"
	"testing"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

func TestARefreshTellsNewGroupsAndANewRefreshToken(t *testing.T) {
	for _, withoutIDToken := range []bool{false, true} {
		server := newServer(t)
		server.RefreshWithoutIDToken(withoutIDToken)
		provider := newProvider(server)
		first := mustSignIn(t, server, provider)
		server.SetUser("alice", oidctest.Claims{"preferred_username": "alice-b", "groups": []string{"users"}})
		login, err := provider.Refresh(t.Context(), first.RefreshToken, first.Subject)
		if err != nil {
			t.Fatal(err)
		}
		if login.RefreshToken == "" || login.RefreshToken == first.RefreshToken {
			t.Errorf("refresh token %q after %q", login.RefreshToken, first.RefreshToken)
		}
		if (login.IDToken == "") != withoutIDToken {
			t.Errorf("ID token %q", login.IDToken)
		}
		if login.Issuer != first.Issuer || login.Subject != first.Subject || login.Name != "alice-b" || !reflect.DeepEqual(login.Groups, []string{"users"}) {
			t.Errorf("%+v", login)
		}
		if _, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject); err != nil {
			t.Errorf("the new refresh token: %v", err)
		}
	}
}

func TestWithoutANewRefreshTokenNoneIsReturned(t *testing.T) {
	server := newServer(t)
	server.Handle(oidctest.Token, answerJSON(`{"access_token": "a", "token_type": "Bearer"}`))
	server.Handle(oidctest.Userinfo, answerJSON(`{"sub": "id-alice", "preferred_username": "alice"}`))
	login, err := newProvider(server).Refresh(t.Context(), "old", "id-alice")
	if err != nil || login.RefreshToken != "" || login.Name != "alice" {
		t.Errorf("%+v, %v", login, err)
	}
}

func answerJSON(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body)) // the client may be gone
	}
}

func TestWhomTheProviderRefusesIsEnded(t *testing.T) {
	server := newServer(t)
	provider := newProvider(server)
	login := mustSignIn(t, server, provider)
	server.Disable("alice")
	_, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject)
	if !errors.Is(err, oidc.ErrEnded) || errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestWhomTheProviderRefusesIsEndedHoweverTheClientAuthenticates(t *testing.T) {
	for _, method := range []string{"client_secret_basic", "client_secret_post"} {
		server := newServer(t)
		server.TakeAuthMethods(method)
		// As after a restart, when it is not known yet what the token endpoint takes.
		_, err := newProvider(server).Refresh(t.Context(), "revoked", "id-alice")
		if !errors.Is(err, oidc.ErrEnded) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestNothingButInvalidGrantEndsAnybody(t *testing.T) {
	tests := map[string]http.HandlerFunc{
		"a wrong client secret":            oidctest.OAuthError(401, "invalid_client", "who?"),
		"a client that may not refresh":    oidctest.OAuthError(400, "unauthorized_client", ""),
		"an invalid request":               oidctest.OAuthError(400, "invalid_request", ""),
		"no more for now":                  oidctest.OAuthError(400, "temporarily_unavailable", "later"),
		"a server error":                   oidctest.OAuthError(400, "server_error", ""),
		"too many requests":                oidctest.Status(429),
		"an error that says invalid_grant": oidctest.OAuthError(500, "invalid_grant", "the database is down"),
		"too many, with invalid_grant":     oidctest.OAuthError(429, "invalid_grant", "slow down"),
		"invalid_grant in a description":   oidctest.OAuthError(400, "other", "invalid_grant"),
		"500":                              oidctest.Status(500),
		"503":                              oidctest.Status(503),
		"400 without a code":               oidctest.Status(400),
		"404":                              oidctest.Status(404),
		"a page":                           answerJSON("<html>maintenance"),
		"no access token":                  answerJSON("{}"),
		"a cut answer":                     answerJSON(`{"error": "invalid_grant"`),
		"an answer about somebody else":    answerJSON(`{"access_token": "a"}`),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			provider := newProvider(server)
			login := mustSignIn(t, server, provider)
			server.Handle(oidctest.Token, answer)
			if _, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject); err == nil || errors.Is(err, oidc.ErrEnded) {
				t.Errorf("error %v", err)
			}
			server.Handle(oidctest.Token, nil)
			if _, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestAProviderThatIsAwayEndsNobody(t *testing.T) {
	server := newServer(t)
	provider := newProvider(server, func(c *oidc.Config) { c.Client = nil })
	login := mustSignIn(t, server, provider)
	server.Down()
	for name, provider := range map[string]*oidc.Provider{"known": provider, "not known": newProvider(server)} {
		_, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject)
		if !errors.Is(err, oidc.ErrUnavailable) || errors.Is(err, oidc.ErrEnded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	server.Up()
	if _, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestARefreshAboutSomebodyElseIsRefused(t *testing.T) {
	for _, withoutIDToken := range []bool{false, true} {
		server := newServer(t)
		provider := newProvider(server)
		login := mustSignIn(t, server, provider)
		server.RefreshWithoutIDToken(withoutIDToken)
		changed, err := provider.Refresh(t.Context(), login.RefreshToken, "id-mallory")
		wantError(t, err, "about somebody else")
		if errors.Is(err, oidc.ErrEnded) || changed == nil || changed.Subject != "" || changed.Name != "" {
			t.Errorf("%+v, %v", changed, err)
		}
	}
}

func TestAForgedTokenOfARefreshIsRefusedAndEndsNobody(t *testing.T) {
	server := newServer(t)
	provider := newProvider(server)
	login := mustSignIn(t, server, provider)
	server.Forge(func(token *oidctest.IDToken) { token.Key = oidctest.NewKey("ES256") })
	_, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject)
	wantError(t, err, "failed to verify id token signature")
	if errors.Is(err, oidc.ErrEnded) {
		t.Errorf("%v", err)
	}
}

func TestARefreshWithoutIDTokenAndUserinfoTellsNothingAndEndsNobody(t *testing.T) {
	server := newServer(t)
	server.RefreshWithoutIDToken(true)
	server.ChangeDiscovery(func(document map[string]any) { delete(document, "userinfo_endpoint") })
	provider := newProvider(server)
	login := mustSignIn(t, server, provider)
	_, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject)
	wantError(t, err, "no ID token, and has no userinfo")
	if errors.Is(err, oidc.ErrEnded) {
		t.Errorf("%v", err)
	}
}

func TestANewRefreshTokenIsNotLostThoughTheRestFails(t *testing.T) {
	server := newServer(t)
	server.RefreshWithoutIDToken(true)
	provider := newProvider(server)
	login := mustSignIn(t, server, provider)
	server.Handle(oidctest.Userinfo, oidctest.Status(503))
	got, err := provider.Refresh(t.Context(), login.RefreshToken, login.Subject)
	if !errors.Is(err, oidc.ErrUnavailable) || errors.Is(err, oidc.ErrEnded) {
		t.Errorf("%v", err)
	}
	if got == nil || got.RefreshToken == "" || got.Name != "" || got.Groups != nil {
		t.Fatalf("%+v", got)
	}
	server.Handle(oidctest.Userinfo, nil)
	if _, err := provider.Refresh(t.Context(), got.RefreshToken, login.Subject); err != nil {
		t.Errorf("with the new refresh token: %v", err)
	}
}

// A provider that lost its answer takes a refresh token that comes again for stolen.
func TestARefreshTokenIsSentOnceThoughItIsNotKnownHowTheClientAuthenticates(t *testing.T) {
	for _, answer := range []http.HandlerFunc{
		oidctest.Status(500), oidctest.Status(400), oidctest.OAuthError(400, "invalid_grant", ""), oidctest.OAuthError(401, "invalid_grant", ""),
	} {
		server := newServer(t)
		server.Handle(oidctest.Token, answer)
		if _, err := newProvider(server).Refresh(t.Context(), "token", "id-alice"); err == nil {
			t.Error("no error")
		}
		if n := server.Requests(oidctest.Token); n != 1 {
			t.Errorf("it was sent %d times", n)
		}
	}
}
