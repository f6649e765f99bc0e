package oidctest_test

import (
	"net/http"
	"net/url"
	"testing"

	"golang.org/x/oauth2"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

func config(server *oidctest.Server) *oauth2.Config {
	return &oauth2.Config{
		ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret, RedirectURL: "http://client.test/", Scopes: []string{"openid"},
		Endpoint: oauth2.Endpoint{AuthURL: server.URL() + oidctest.Authorize, TokenURL: server.URL() + oidctest.Token, AuthStyle: oauth2.AuthStyleInHeader},
	}
}

const verifier = "a-verifier-that-is-as-long-as-they-have-to-be"

func authURL(server *oidctest.Server, options ...oauth2.AuthCodeOption) string {
	options = append([]oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("nonce", "n")}, options...)
	return config(server).AuthCodeURL("a state", options...)
}

func TestWhoSignsIn(t *testing.T) {
	server := oidctest.New(t)
	server.SetUser("alice", nil)
	server.SetUser("bob", nil)
	server.SetUser("carol", nil)
	for _, test := range []struct {
		name    string
		set     func()
		options []oauth2.AuthCodeOption
		want    string
	}{
		{"the first", func() {}, nil, "alice"},
		{"who is named", func() { server.SignInAs("bob") }, nil, "bob"},
		{"who is hinted at", func() {}, []oauth2.AuthCodeOption{oauth2.SetAuthURLParam("login_hint", "carol")}, "carol"},
	} {
		test.set()
		var got any
		server.Forge(func(token *oidctest.IDToken) { got = token.Claims["preferred_username"] })
		answer := server.Authorize(t, authURL(server, test.options...))
		_, err := config(server).Exchange(t.Context(), answer.Get("code"), oauth2.VerifierOption(verifier))
		if err != nil || got != test.want {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
}

func TestWhatIsNotAsItShouldBeIsRefused(t *testing.T) {
	server := oidctest.New(t)
	server.SetUser("alice", nil)
	server.SetUser("bob", nil)
	server.Disable("bob")
	for want, param := range map[string][2]string{
		"access_denied":             {"login_hint", "bob"},
		"unsupported_response_type": {"response_type", "token"},
		"invalid_scope":             {"scope", "email"},
		"invalid_request":           {"code_challenge_method", "plain"},
	} {
		answer := server.Authorize(t, authURL(server, oauth2.SetAuthURLParam(param[0], param[1])))
		if answer.Get("error") != want || answer.Has("code") || answer.Get("iss") != server.Issuer() {
			t.Errorf("%s: %v", want, answer)
		}
	}
}

func TestACodeIsTakenOnce(t *testing.T) {
	server := oidctest.New(t)
	server.SetUser("alice", nil)
	code := server.Authorize(t, authURL(server)).Get("code")
	for i, want := range []bool{true, false} {
		if _, err := config(server).Exchange(t.Context(), code, oauth2.VerifierOption(verifier)); (err == nil) != want {
			t.Errorf("time %d: %v", i+1, err)
		}
	}
}

func TestSigningOutLeadsBack(t *testing.T) {
	server := oidctest.New(t)
	back := url.Values{"client_id": {oidctest.ClientID}, "post_logout_redirect_uri": {"http://client.test/out"}}
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Get(server.URL() + oidctest.EndSession + "?" + back.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("Location") != "http://client.test/out" {
		t.Errorf("%s, %v", resp.Status, resp.Header)
	}
}

func TestDownAndUpOnTheSamePort(t *testing.T) {
	server := oidctest.New(t)
	address := server.URL()
	server.Down()
	server.Down()
	if resp, err := http.Get(address + oidctest.Discovery); err == nil {
		t.Errorf("%s while it is down", resp.Status)
		_ = resp.Body.Close()
	}
	server.Up()
	resp, err := http.Get(address + oidctest.Discovery)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK || server.URL() != address {
		t.Errorf("%s, %v, at %s", resp.Status, err, server.URL())
	}
}
