package authn

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// newProvider returns a provider where alice can sign in. In a bubble of synctest it must
// not be begun: it listens.
func newProvider(t testing.TB) *oidctest.Server {
	t.Helper()
	server := oidctest.New(t)
	server.SetUser("alice", oidctest.Claims{"groups": []string{"writers"}})
	return server
}

// addProvider lets people sign in at a provider.
func (s *site) addProvider(server *oidctest.Server, name string) {
	s.Providers = append(s.Providers, Provider{
		Provider: oidc.NewProvider(oidc.Config{
			Name: name, Issuer: server.Issuer(), ClientID: oidctest.ClientID, ClientSecret: oidctest.ClientSecret,
			Scopes: []string{"openid", "profile", "offline_access"}, UsernameClaim: "preferred_username", GroupsClaim: "groups",
			Client: server.Client(),
		}),
		CallbackPath: "/auth/callback/" + name,
		Refresh:      15 * time.Minute,
	})
}

// browser keeps cookies, and goes on where it is sent.
type browser struct {
	site    *site
	server  *oidctest.Server
	origin  string // scheme and host
	cookies map[string]string
	set     []*http.Cookie // that were set last
}

func (s *site) newBrowser(server *oidctest.Server) *browser {
	return &browser{site: s, server: server, origin: "https://registry.test", cookies: map[string]string{}}
}

func (b *browser) request(target string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, b.origin+target, nil)
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	return r
}

// take keeps the cookies of an answer, and returns where it leads.
func (b *browser) take(w *httptest.ResponseRecorder) string {
	b.set = w.Result().Cookies()
	for _, cookie := range b.set {
		if delete(b.cookies, cookie.Name); cookie.MaxAge >= 0 {
			b.cookies[cookie.Name] = cookie.Value
		}
	}
	return w.Header().Get("Location")
}

// begin goes to a provider, and returns with what it is sent back.
func (b *browser) begin(provider *Provider, back string) (url.Values, error) {
	w := httptest.NewRecorder()
	err := b.site.BeginLogin(w, b.request(LoginPath+provider.Name()+"?"+url.Values{"return": {back}}.Encode()), provider)
	target := b.take(w)
	if err != nil {
		return nil, err
	}
	if w.Code != http.StatusSeeOther || w.Header().Get("Cache-Control") != "no-store" {
		b.site.t.Errorf("%d, %v", w.Code, w.Header())
	}
	return b.server.Authorize(b.site.t, target), nil
}

// finish comes back from a provider, and returns where it is sent on.
func (b *browser) finish(provider *Provider, query url.Values) (string, error) {
	w := httptest.NewRecorder()
	err := b.site.FinishLogin(w, b.request(provider.CallbackPath+"?"+query.Encode()), provider)
	return b.take(w), err
}

// mustBegin is begin where nothing is wrong.
func (b *browser) mustBegin(provider *Provider) url.Values {
	b.site.t.Helper()
	query, err := b.begin(provider, "/")
	if err != nil {
		b.site.t.Fatal(err)
	}
	return query
}

// signIn is all of it.
func (b *browser) signIn(provider *Provider) {
	b.site.t.Helper()
	if _, err := b.finish(provider, b.mustBegin(provider)); err != nil {
		b.site.t.Fatal(err)
	}
}

// caller is who the browser is.
func (b *browser) caller() *Caller {
	b.site.t.Helper()
	return b.site.identify(b.request("/"))
}

// cookie returns the name and value of a cookie whose name has a text, once there is one.
func (b *browser) cookie(text string) (name, value string) {
	for name, value := range b.cookies {
		if strings.Contains(name, text) {
			return name, value
		}
	}
	return "", ""
}

func wantLoginError(t *testing.T, name string, err error, status int, words string) {
	t.Helper()
	var told *LoginError
	if !errors.As(err, &told) || told.Status != status || !strings.Contains(told.Message, words) {
		t.Errorf("%s: error %v, want %d with %q", name, err, status, words)
	}
}
