package caddymodule

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/web"
)

func init() {
	caddy.RegisterModule(UI{})
}

// CaddyModule returns the Caddy module information.
func (UI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.registry_ui", New: func() caddy.Module { return new(UI) }}
}

// The pages.
const (
	homePath      = "/"
	loginPagePath = "/login"
	keysPagePath  = "/user/apikey"
)

func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if strings.HasPrefix(r.URL.Path, web.AssetPrefix) {
		web.Assets().ServeHTTP(w, r)
		return nil
	}
	auth := authOf(r)
	if auth == nil {
		return next.ServeHTTP(w, r) // there is nothing to sign in to
	}
	var serve func(http.ResponseWriter, *http.Request, *authn.Caller) error
	switch r.URL.Path {
	case homePath:
		serve = auth.serveHome
	case loginPagePath:
		serve = auth.serveLogin
	case keysPagePath:
		serve = auth.serveKeysPage
	default:
		return next.ServeHTTP(w, r)
	}
	// Pages are for browsers, which prove who they are by a session.
	r = withoutAuthorization(r)
	caller, err := callerOf(r, auth)
	if err == nil {
		err = serve(w, r, caller)
	}
	if err != nil {
		auth.fail(w, r, err)
	}
	return nil
}

// withoutAuthorization returns a request without credentials that are not a session's:
// another handler of the site may ask for some of its own.
func withoutAuthorization(r *http.Request) *http.Request {
	if r.Header.Get("Authorization") == "" {
		return r
	}
	copied := r.Clone(r.Context())
	copied.Header.Del("Authorization")
	return copied
}

// serveHome leads to the page for signing in, or past it.
func (a *Auth) serveHome(w http.ResponseWriter, r *http.Request, caller *authn.Caller) error {
	if !isRead(w, r) {
		return nil
	}
	if caller.Session == nil {
		return web.Login(w, r, http.StatusOK, a.loginPage(r, homePath))
	}
	redirect(w, r, keysPagePath)
	return nil
}

func (a *Auth) serveLogin(w http.ResponseWriter, r *http.Request, caller *authn.Caller) error {
	if !isRead(w, r) {
		return nil
	}
	query := r.URL.Query()
	back := authn.LocalPath(query.Get("return"))
	if caller.Session != nil {
		redirect(w, r, back)
		return nil
	}
	page := a.loginPage(r, back)
	page.SignedOut = query.Has("signed_out")
	return web.Login(w, r, http.StatusOK, page)
}

// isRead refuses requests for a page that are not to read it.
func isRead(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, "use GET", http.StatusMethodNotAllowed)
	return false
}

// loginPage is the page for signing in, after which it goes on at a path.
func (a *Auth) loginPage(r *http.Request, back string) web.LoginPage {
	page := web.LoginPage{Layout: a.layout(r, nil), KeyAction: sessionPath, Return: back}
	for _, provider := range a.site.Providers {
		page.Providers = append(page.Providers, web.Provider{
			Name:    provider.Name(),
			URL:     authn.LoginPath + provider.Name() + "?" + url.Values{"return": {back}}.Encode(),
			Problem: providerProblem(r, provider),
		})
	}
	return page
}

// providerProblem tells why nobody can sign in at a provider now. It waits for a provider
// only a moment, and for one that did not answer just now not at all.
func providerProblem(r *http.Request, provider authn.Provider) string {
	if provider.Discover(r.Context()) != nil {
		return "It cannot be reached now. Everything but new sign-ins works; try again in a while."
	}
	return ""
}

// layout is what all pages share, for whoever is signed in.
func (a *Auth) layout(r *http.Request, caller *authn.Caller) web.Layout {
	layout := web.Layout{Host: r.Host, Home: homePath, SignIn: loginPagePath}
	if caller != nil && caller.Session != nil {
		layout.User, layout.SignIn, layout.SignOut = caller.Name, "", logoutPath
		layout.Nav = []web.Link{{Label: "API keys", URL: keysPagePath}}
		for _, provider := range a.site.Providers {
			if target, ok := provider.EndSessionURL(r.Context(), "", ""); ok {
				layout.FormOrigins = append(layout.FormOrigins, target)
			}
		}
	}
	return layout
}

// serveKeysPage shows the keys of whoever is signed in, and does what its forms ask for.
func (a *Auth) serveKeysPage(w http.ResponseWriter, r *http.Request, caller *authn.Caller) error {
	if caller.Session == nil {
		redirect(w, r, loginPagePath+"?"+url.Values{"return": {keysPagePath}}.Encode())
		return nil
	}
	page := web.KeysPage{
		Layout: a.layout(r, caller), MayCreate: caller.Key == nil, Action: keysPagePath,
		Lifetime: a.site.Keys.Lifetime, MaxLifetime: a.site.Keys.MaxLifetime, Grace: a.site.Keys.Grace,
	}
	status := http.StatusOK
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		var refused *authn.KeyError
		err := a.changeKeys(w, r, caller, &page)
		if errors.As(err, &refused) {
			status = refused.Status
		} else if err != nil {
			return err
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "use GET or POST", http.StatusMethodNotAllowed)
		return nil
	}
	keys, err := a.keysOf(r, caller)
	if err != nil {
		return err
	}
	page.Keys, page.Now = keys, time.Now()
	page.Form.ID = rand.Text()
	return web.Keys(w, r, status, page)
}

// changeKeys does what a form of the page of keys asks for, and writes onto the page what
// came of it. A [authn.KeyError] is there too.
func (a *Auth) changeKeys(w http.ResponseWriter, r *http.Request, caller *authn.Caller, page *web.KeysPage) error {
	if err := caller.SameOrigin(r); err != nil {
		page.Error = "That was sent by another site's page."
		return &authn.KeyError{Status: http.StatusForbidden, Message: page.Error}
	}
	post, err := web.ReadKeyPost(w, r)
	if err != nil {
		page.Error = "The form cannot be read."
		return &authn.KeyError{Status: http.StatusBadRequest, Message: page.Error}
	}
	var refused *authn.KeyError
	switch post.Do {
	case web.CreateKey:
		err = a.createKey(r, caller, post.Form, page)
		if errors.As(err, &refused) {
			page.Form = post.Form
			page.Form.Error = refused.Message
		}
		return err
	case web.RotateKey:
		err = a.rotateKey(r, caller, post, page)
	case web.RevokeKey:
		if err = a.site.RevokeKey(r, caller, post.Key); err == nil {
			page.Note = "The key was revoked. It no longer works."
		}
	default:
		err = &authn.KeyError{Status: http.StatusBadRequest, Message: "the form does not say what to do"}
	}
	if errors.As(err, &refused) {
		page.Error = refused.Message
	}
	return err
}

func (a *Auth) createKey(r *http.Request, caller *authn.Caller, form web.KeyForm, page *web.KeysPage) error {
	if !page.MayCreate {
		return &authn.KeyError{Status: http.StatusForbidden, Message: "an API key makes no others: sign out and sign in as a person"}
	}
	until, err := form.Until()
	if err != nil {
		return &authn.KeyError{Status: http.StatusBadRequest, Message: err.Error()}
	}
	if err := a.takeForm(form.ID); err != nil {
		return err
	}
	key, text, err := a.site.MakeKey(r, caller, authn.KeyRequest{Label: form.Label, Expires: until, Scopes: form.ScopeList()})
	if err == nil {
		page.New = &web.NewKey{Label: key.Label, Secret: text, Expires: key.Expires}
	}
	return err
}

func (a *Auth) rotateKey(r *http.Request, caller *authn.Caller, post web.KeyPost, page *web.KeysPage) error {
	if err := a.takeForm(post.Form.ID); err != nil {
		return err
	}
	key, text, err := a.site.RotateKey(r, caller, post.Key)
	if err == nil {
		page.New = &web.NewKey{Label: key.Label, Secret: text, Expires: key.Expires, OldEnds: key.Created.Add(a.site.Keys.Grace)}
	}
	return err
}

// takeForm refuses a form that was sent before: a page that is loaded again sends it again,
// and would make another key.
func (a *Auth) takeForm(id string) error {
	if len(id) != len(rand.Text()) || !a.site.Once.Take(strings.Clone(id)) { // which else holds the whole form
		return &authn.KeyError{Status: http.StatusConflict, Message: "this form was sent already: the key that it made is shown once, generate another if it is lost"}
	}
	return nil
}

// keysOf returns the keys of a person, or the one key that began the session.
func (a *Auth) keysOf(r *http.Request, caller *authn.Caller) ([]web.Key, error) {
	var stored []storage.APIKey
	var err error
	if caller.Key != nil {
		var own *storage.APIKey
		if own, err = a.site.Accounts.Key(r.Context(), caller.Key.ID); err == nil {
			stored = []storage.APIKey{*own}
		}
	} else {
		stored, err = a.site.ListKeys(r.Context(), caller)
	}
	if err != nil {
		return nil, err
	}
	keys := make([]web.Key, 0, len(stored))
	for _, key := range stored {
		keys = append(keys, web.Key{
			ID: key.ID, Label: key.Label, Scopes: key.Scopes, Created: key.Created, Expires: key.Expires,
			LastUsed: key.LastUsed, Revoked: key.Revoked, Successor: key.Successor,
		})
	}
	return keys, nil
}

// fail shows that something went wrong which is not the visitor's doing.
func (a *Auth) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, _, message, _ := a.site.Refused(r, err)
	page := web.FailurePage{
		Layout: a.layout(r, nil), Message: message,
		Advice: "Try again in a while.", Links: []web.Link{{Label: "Sign in", URL: loginPagePath}},
	}
	a.show(r, web.Failure(w, r, status, page))
}

func redirect(w http.ResponseWriter, r *http.Request, path string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, path, http.StatusSeeOther)
}

// Interface guards
var (
	_ caddyhttp.MiddlewareHandler = (*UI)(nil)
	_ caddyfile.Unmarshaler       = (*UI)(nil)
)
