package authn

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/storage"
)

// LoginPath is below what signing in begins, by the provider's name.
const LoginPath = "/auth/login/"

const (
	// loginTime is how long somebody may take to sign in at a provider.
	loginTime      = 10 * time.Minute
	onceRemembered = 10_000 // things that were done
)

// Once remembers what was done that may be done once: attempts to sign in that came back
// from the provider, forms that were sent.
type Once struct{ done *lru.Cache[string, struct{}] }

// NewOnce returns one that remembers nothing.
func NewOnce() *Once {
	done, err := lru.New[string, struct{}](onceRemembered)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Once{done}
}

// Take reports whether it was not called with the id before.
func (o *Once) Take(id string) bool {
	taken, _ := o.done.ContainsOrAdd(id, struct{}{})
	return !taken
}

// attempt is what is known of an attempt to sign in while the browser is elsewhere. It is
// kept in a cookie of that browser, encrypted.
type attempt struct {
	oidc.Attempt
	Provider string
	Return   string
	Expires  time.Time
}

// LoginError is why somebody is not signed in, in words for that person.
type LoginError struct {
	Status  int // of HTTP
	Message string
}

func (e *LoginError) Error() string { return e.Message }

// LocalPath returns a path of this site to go on at after signing in, which is / unless
// what is wanted is one: never another site's.
func LocalPath(wanted string) string {
	u, err := url.Parse(wanted)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(wanted, "/") ||
		strings.HasPrefix(wanted, "//") || strings.Contains(wanted, `\`) {
		return "/"
	}
	// What is sent is what was parsed, so that no browser reads it another way.
	local := (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).String()
	if !strings.HasPrefix(local, "/") || strings.HasPrefix(local, "//") {
		return "/"
	}
	return local
}

// BaseURL returns the scheme and host by which people reach the site.
func (s *Site) BaseURL(r *http.Request) string {
	if s.PublicURL != "" {
		return s.PublicURL
	}
	return s.RequestURL(r)
}

// RequestURL returns the scheme and host of a request.
func (s *Site) RequestURL(r *http.Request) string {
	if s.Secure(r) {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// BeginLogin sends a browser to a provider, or returns a [LoginError].
func (s *Site) BeginLogin(w http.ResponseWriter, r *http.Request, provider *Provider) error {
	w.Header().Set("Cache-Control", "no-store")
	back := LocalPath(r.URL.Query().Get("return"))
	// The provider sends the browser to where this site is public, and only there the
	// cookie is sent too.
	if base := s.BaseURL(r); base != s.RequestURL(r) && r.URL.Query().Get("moved") == "" {
		query := url.Values{"return": {back}, "moved": {"1"}}
		http.Redirect(w, r, base+LoginPath+provider.Name()+"?"+query.Encode(), http.StatusSeeOther)
		return nil
	}
	a := attempt{Attempt: oidc.NewAttempt(), Provider: provider.Name(), Return: back, Expires: time.Now().Add(loginTime)}
	target, err := provider.AuthURL(r.Context(), s.BaseURL(r)+provider.CallbackPath, a.Attempt)
	if err != nil {
		return s.loginError(r, provider, err)
	}
	content, err := json.Marshal(a)
	if err != nil {
		return err
	}
	s.setCookie(w, r, s.loginCookie(r, a.State), base64.RawURLEncoding.EncodeToString(s.Sealer.Seal(content, forLogin)), loginTime)
	http.Redirect(w, r, target, http.StatusSeeOther)
	return nil
}

// loginCookie returns the name of an attempt's cookie: there may be several, in several
// tabs.
func (s *Site) loginCookie(r *http.Request, state string) string {
	return s.cookieName(r, "registry_login_"+state[:min(8, len(state))])
}

// FinishLogin signs in who comes back from a provider, and sends the browser to where it
// was, or returns a [LoginError].
func (s *Site) FinishLogin(w http.ResponseWriter, r *http.Request, provider *Provider) error {
	w.Header().Set("Cache-Control", "no-store")
	query := r.URL.Query()
	a, err := s.takeAttempt(w, r, provider, query.Get("state"))
	if err != nil {
		s.Failed("login")
		s.AuditRequest(r, "login_failed", "", "provider", provider.Name(), "error", err.Error())
		return err
	}
	if issuer := query.Get("iss"); issuer != "" && strings.TrimSuffix(issuer, "/") != provider.Issuer() { // RFC 9207
		return s.loginError(r, provider, fmt.Errorf("the answer is of issuer %q", issuer))
	}
	if code := query.Get("error"); code != "" {
		return s.loginError(r, provider, fmt.Errorf("%s: %s", code, query.Get("error_description")))
	}
	login, err := provider.Exchange(r.Context(), s.BaseURL(r)+provider.CallbackPath, query.Get("code"), a.Attempt)
	if err != nil {
		return s.loginError(r, provider, err)
	}
	err = s.begin(w, r, func(hash [32]byte, session storage.Session) error {
		session.IDToken = s.Sealer.sealText(login.IDToken, forLogout)
		_, err := s.Accounts.SignIn(r.Context(), storage.Person{
			Issuer: login.Issuer, Subject: login.Subject, ClientID: provider.ClientID(), Version: provider.Version(), Name: login.Name,
			Groups: login.Groups, RefreshToken: s.Sealer.sealText(login.RefreshToken, forRefresh),
		}, hash, session)
		return err
	})
	if err != nil {
		return err
	}
	s.AuditRequest(r, "login", login.Name, "provider", provider.Name(), "issuer", login.Issuer, "subject", login.Subject, "groups", login.Groups)
	http.Redirect(w, r, a.Return, http.StatusSeeOther)
	return nil
}

var (
	errOtherBrowser = &LoginError{http.StatusBadRequest, "This sign-in was not begun in this browser, or that is more than ten minutes ago. Sign in again."}
	errLoginTwice   = &LoginError{http.StatusBadRequest, "This sign-in has been used already. Sign in again."}
)

// takeAttempt returns the attempt that a state is of, once, if it was this browser's.
func (s *Site) takeAttempt(w http.ResponseWriter, r *http.Request, provider *Provider, state string) (*attempt, error) {
	name := s.loginCookie(r, state)
	cookie, err := r.Cookie(name)
	if err != nil {
		return nil, errOtherBrowser
	}
	s.setCookie(w, r, name, "", 0)
	sealed, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil {
		return nil, errOtherBrowser
	}
	content, err := s.Sealer.Open(sealed, forLogin)
	if err != nil {
		return nil, errOtherBrowser
	}
	a := new(attempt)
	if err := json.Unmarshal(content, a); err != nil {
		return nil, errOtherBrowser
	}
	if subtle.ConstantTimeCompare([]byte(a.State), []byte(state)) != 1 || a.Provider != provider.Name() || time.Now().After(a.Expires) {
		return nil, errOtherBrowser
	}
	if !s.Once.Take(a.State) {
		return nil, errLoginTwice
	}
	return a, nil
}

// loginError logs why somebody is not signed in, and returns what to tell them.
func (s *Site) loginError(r *http.Request, provider *Provider, err error) error {
	s.Failed("login")
	s.AuditRequest(r, "login_failed", "", "provider", provider.Name(), "error", err.Error())
	if errors.Is(err, oidc.ErrUnavailable) {
		return &LoginError{http.StatusServiceUnavailable, fmt.Sprintf("The identity provider %s cannot be reached now. Everything but new sign-ins works; try again in a while.", provider.Name())}
	}
	s.Log.WarnContext(r.Context(), "signing in failed", "provider", provider.Name(), "error", err)
	return &LoginError{http.StatusUnauthorized, fmt.Sprintf("The identity provider %s did not sign you in: %s", provider.Name(), err)}
}

// LoginWithKey signs a browser in with an API key, which then may look but make no keys.
func (s *Site) LoginWithKey(w http.ResponseWriter, r *http.Request, text string) error {
	caller, err := s.identifyKey(r.Context(), strings.TrimSpace(text))
	if err != nil {
		return err
	}
	err = s.begin(w, r, func(hash [32]byte, session storage.Session) error {
		if caller.Key.Expires.Before(session.Expires) {
			session.Expires = caller.Key.Expires
		}
		return s.Accounts.BeginKeySession(r.Context(), caller.Key.ID, hash, session)
	})
	if err == nil {
		s.AuditRequest(r, "login", caller.Name, "key", caller.Key.ID)
	}
	return err
}

// Logout ends a browser's session, and returns where to go to sign out at the provider
// too, or nothing.
func (s *Site) Logout(w http.ResponseWriter, r *http.Request, caller *Caller, back string) (string, error) {
	if err := s.end(r); err != nil {
		return "", err
	}
	s.setCookie(w, r, s.sessionCookie(r), "", 0)
	if caller.Session == nil {
		return "", nil
	}
	s.AuditRequest(r, "logout", caller.Name)
	return s.providerLogout(r.Context(), caller.Session, s.BaseURL(r)+back), nil
}

func (s *Site) providerLogout(ctx context.Context, session *storage.Session, back string) string {
	if session.Person == nil || session.IDToken == nil {
		return ""
	}
	idToken, err := s.Sealer.Open(session.IDToken, forLogout)
	if err != nil {
		return ""
	}
	for _, provider := range s.Providers {
		if provider.ClientID() == session.Person.ClientID && provider.Issuer() == session.Person.Issuer {
			target, _ := provider.EndSessionURL(ctx, string(idToken), back)
			return target
		}
	}
	return ""
}
