package oidc_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code) // which is what the cleanup stands in for
	}))
}

const callback = "https://registry.test/auth/callback/idp"

// newServer returns a provider where alice can sign in.
func newServer(t *testing.T) *oidctest.Server {
	t.Helper()
	server := oidctest.New(t)
	server.SetUser("alice", oidctest.Claims{"groups": []string{"users", "admins"}})
	return server
}

// newProvider returns a provider that asks a server.
func newProvider(server *oidctest.Server, changes ...func(*oidc.Config)) *oidc.Provider {
	config := oidc.Config{
		Name: "idp", Issuer: server.Issuer(), ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret,
		Scopes: []string{"openid", "profile", "offline_access"}, UsernameClaim: "preferred_username", GroupsClaim: "groups",
		Client: server.Client(),
	}
	for _, change := range changes {
		change(&config)
	}
	return oidc.NewProvider(config)
}

// signIn signs in as a browser does.
func signIn(t *testing.T, server *oidctest.Server, provider *oidc.Provider) (*oidc.Login, error) {
	t.Helper()
	attempt := oidc.NewAttempt()
	target, err := provider.AuthURL(t.Context(), callback, attempt)
	if err != nil {
		t.Fatal(err)
	}
	answer := server.Authorize(t, target)
	if answer.Get("state") != attempt.State {
		t.Fatalf("the browser came back with state %q, error %q", answer.Get("state"), answer.Get("error"))
	}
	return provider.Exchange(t.Context(), callback, answer.Get("code"), attempt)
}

func mustSignIn(t *testing.T, server *oidctest.Server, provider *oidc.Provider) *oidc.Login {
	t.Helper()
	login, err := signIn(t, server, provider)
	if err != nil {
		t.Fatal(err)
	}
	return login
}

// wantError checks that an error tells of something.
func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one with %q", err, text)
	}
}

func TestSomebodySignsIn(t *testing.T) {
	for _, algorithm := range []string{"ES256", "RS256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			server := newServer(t)
			server.RotateKey(algorithm)
			login := mustSignIn(t, server, newProvider(server))
			if login.IDToken == "" || login.RefreshToken == "" {
				t.Errorf("tokens are missing: %+v", login)
			}
			login.IDToken, login.RefreshToken = "", ""
			want := &oidc.Login{
				Issuer: strings.TrimSuffix(server.Issuer(), "/"), Subject: "id-alice", Name: "alice", Groups: []string{"admins", "users"},
			}
			if !reflect.DeepEqual(login, want) {
				t.Errorf("%+v, want %+v", login, want)
			}
			if n := server.Requests(oidctest.Userinfo); n != 0 {
				t.Errorf("userinfo was asked %d times for what the ID token says", n)
			}
		})
	}
}

func TestSomebodySignsInOverTheNetworkByTheProvidersOwnClient(t *testing.T) {
	server := newServer(t)
	login := mustSignIn(t, server, newProvider(server, func(c *oidc.Config) { c.Client = nil }))
	if login.Name != "alice" {
		t.Errorf("%+v", login)
	}
}

func TestWhereABrowserSignsIn(t *testing.T) {
	server := newServer(t)
	attempt := oidc.Attempt{State: "a state", Nonce: "a nonce", Verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"}
	target, err := newProvider(server).AuthURL(t.Context(), callback, attempt)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(target)
	if err != nil || !strings.HasPrefix(target, server.URL()+oidctest.Authorize+"?") {
		t.Fatalf("%s, %v", target, err)
	}
	want := url.Values{
		"response_type": {"code"}, "client_id": {oidctest.ClientID}, "redirect_uri": {callback}, "scope": {"openid profile offline_access"},
		"state": {"a state"}, "nonce": {"a nonce"}, "prompt": {"consent"},
		// RFC 7636, appendix B
		"code_challenge_method": {"S256"}, "code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"},
	}
	if got := u.Query(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
}

func TestNoTwoAttemptsAreAlikeAndEachCanBeKept(t *testing.T) {
	one, other := oidc.NewAttempt(), oidc.NewAttempt()
	if one.State == other.State || one.Nonce == other.Nonce || one.Verifier == other.Verifier {
		t.Errorf("%+v and %+v", one, other)
	}
	if len(one.State) < 22 || len(one.Nonce) < 22 || len(one.Verifier) < 43 {
		t.Errorf("an attempt of less than 128 random bits, or with no verifier of RFC 7636: %+v", one)
	}
	content, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	var kept oidc.Attempt
	if err := json.Unmarshal(content, &kept); err != nil || kept != one {
		t.Errorf("%+v became %+v, %v", one, kept, err)
	}
}

func TestASlashAtTheEndOfTheIssuerMakesNobodySomebodyElse(t *testing.T) {
	server := newServer(t)
	bare := strings.TrimSuffix(server.Issuer(), "/")
	for _, discovered := range []string{bare, bare + "/"} {
		server.ChangeDiscovery(func(document map[string]any) { document["issuer"] = discovered })
		server.Forge(func(token *oidctest.IDToken) { token.Claims["iss"] = discovered })
		for _, configured := range []string{bare, bare + "/"} {
			provider := newProvider(server, func(c *oidc.Config) { c.Issuer = configured })
			login := mustSignIn(t, server, provider)
			if login.Issuer != bare || provider.Issuer() != bare {
				t.Errorf("configured %s, discovered %s: login of %s, provider %s", configured, discovered, login.Issuer, provider.Issuer())
			}
		}
	}
}

func TestThePrefixIsPutBeforeNameAndGroups(t *testing.T) {
	server := newServer(t)
	login := mustSignIn(t, server, newProvider(server, func(c *oidc.Config) { c.Prefix = "corp-" }))
	if login.Name != "corp-alice" || !reflect.DeepEqual(login.Groups, []string{"corp-admins", "corp-users"}) {
		t.Errorf("%+v", login)
	}
}

func TestClaimsThatTheIDTokenHasNotComeFromUserinfo(t *testing.T) {
	for _, missing := range [][]string{{"groups"}, {"preferred_username"}, {"groups", "preferred_username"}} {
		t.Run(strings.Join(missing, " "), func(t *testing.T) {
			server := newServer(t)
			server.Forge(func(token *oidctest.IDToken) {
				for _, claim := range missing {
					token.Claims[claim] = nil
				}
			})
			login := mustSignIn(t, server, newProvider(server))
			if login.Name != "alice" || !reflect.DeepEqual(login.Groups, []string{"admins", "users"}) {
				t.Errorf("%+v", login)
			}
		})
	}
}

func TestWhatTheIDTokenSaysIsNotReplacedByUserinfo(t *testing.T) {
	server := newServer(t)
	server.Forge(func(token *oidctest.IDToken) { delete(token.Claims, "groups") })
	server.ChangeUserinfo(func(said oidctest.Claims) { said["preferred_username"] = "mallory" })
	if login := mustSignIn(t, server, newProvider(server)); login.Name != "alice" {
		t.Errorf("%+v", login)
	}
}

func TestSomebodyWithoutGroupsHasNone(t *testing.T) {
	server := newServer(t)
	server.SetUser("alice", nil)
	if login := mustSignIn(t, server, newProvider(server)); len(login.Groups) != 0 {
		t.Errorf("%+v", login)
	}
}

func TestAProviderWithoutUserinfoSaysAllInTheIDToken(t *testing.T) {
	server := newServer(t)
	server.SetUser("alice", nil)
	server.ChangeDiscovery(func(document map[string]any) { delete(document, "userinfo_endpoint") })
	if login := mustSignIn(t, server, newProvider(server)); login.Name != "alice" {
		t.Errorf("%+v", login)
	}
}

func TestANameThatIsMissingIsToldByItsClaim(t *testing.T) {
	server := newServer(t)
	server.SetUser("alice", oidctest.Claims{"preferred_username": nil})
	_, err := signIn(t, server, newProvider(server))
	wantError(t, err, "claim preferred_username, which is to be the name, is missing")
}

func TestTheClientAuthenticatesAsTheTokenEndpointWants(t *testing.T) {
	both := []string{"client_secret_post", "client_secret_basic"}
	tests := []struct {
		name     string
		says     []string
		takes    string
		secret   string
		requests int // to sign in twice
	}{
		{"basic of both", both, "client_secret_basic", oidctest.ClientSecret, 2},
		{"post of both, which is remembered", both, "client_secret_post", oidctest.ClientSecret, 3},
		{"basic where nothing is said", nil, "client_secret_basic", oidctest.ClientSecret, 2},
		{"post where nothing is said", nil, "client_secret_post", oidctest.ClientSecret, 3},
		{"basic alone", []string{"client_secret_basic"}, "client_secret_basic", oidctest.ClientSecret, 2},
		{"post alone", []string{"client_secret_post"}, "client_secret_post", oidctest.ClientSecret, 2},
		{"a public client", both, "none", "", 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := newServer(t)
			server.TakeAuthMethods(test.takes)
			server.ChangeDiscovery(func(document map[string]any) { document["token_endpoint_auth_methods_supported"] = test.says })
			provider := newProvider(server, func(c *oidc.Config) { c.ClientSecret = test.secret })
			mustSignIn(t, server, provider)
			mustSignIn(t, server, provider)
			if n := server.Requests(oidctest.Token); n != test.requests {
				t.Errorf("%d requests to the token endpoint, want %d", n, test.requests)
			}
		})
	}
}

func TestSigningOutAtTheProvider(t *testing.T) {
	server := newServer(t)
	server.ChangeDiscovery(func(document map[string]any) {
		document["end_session_endpoint"] = server.URL() + oidctest.EndSession + "?theme=dark"
	})
	provider := newProvider(server)
	if err := provider.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	target, ok := provider.EndSessionURL(t.Context(), "the.id.token", "https://registry.test/login?signed_out=1")
	u, err := url.Parse(target)
	if !ok || err != nil || !strings.HasPrefix(target, server.URL()+oidctest.EndSession+"?") {
		t.Fatalf("%s, %t, %v", target, ok, err)
	}
	want := url.Values{
		"theme": {"dark"}, "id_token_hint": {"the.id.token"}, "client_id": {oidctest.ClientID},
		"post_logout_redirect_uri": {"https://registry.test/login?signed_out=1"},
	}
	if got := u.Query(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if bare, ok := provider.EndSessionURL(t.Context(), "", ""); !ok || bare != server.URL()+oidctest.EndSession+"?theme=dark" {
		t.Errorf("%s, %t", bare, ok)
	}
}

func TestNobodySignsOutAtAProviderThatHasNoPlaceForIt(t *testing.T) {
	server := newServer(t)
	server.ChangeDiscovery(func(document map[string]any) { delete(document, "end_session_endpoint") })
	provider := newProvider(server)
	if err := provider.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if target, ok := provider.EndSessionURL(t.Context(), "the.id.token", callback); ok || target != "" {
		t.Errorf("%q, %t", target, ok)
	}
}

// elsewhere returns a server that tells whether it was sent anything.
func elsewhere(t *testing.T) (url string, asked func() bool) {
	t.Helper()
	var requests []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests = append(requests, r.URL.Path) }))
	t.Cleanup(server.Close)
	return server.URL, func() bool { server.Close(); return len(requests) > 0 }
}
