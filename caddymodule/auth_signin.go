package caddymodule

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/web"
)

// loginStep is a step of signing in at a provider, whose failure is told on a page.
func (a *Auth) loginStep(provider *authn.Provider, step func(*authn.Site, http.ResponseWriter, *http.Request, *authn.Provider) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", "GET")
			http.Error(w, "use GET", http.StatusMethodNotAllowed)
			return
		}
		keepOutOfLog(r)
		if err := step(a.site, w, r, provider); err != nil {
			a.failLogin(w, r, err)
		}
	}
}

// failLogin shows the login page with what went wrong.
func (a *Auth) failLogin(w http.ResponseWriter, r *http.Request, err error) {
	status, message := http.StatusInternalServerError, "Signing in failed; the registry's log says why."
	var told *authn.LoginError
	if errors.As(err, &told) {
		status, message = told.Status, told.Message
	} else {
		a.site.Log.ErrorContext(r.Context(), "signing in", "error", err)
	}
	page := a.loginPage(r, "")
	page.Error = message
	a.show(r, web.Login(w, r, status, page))
}

// serveKeyLogin signs a browser in with the API key of a form.
func (a *Auth) serveKeyLogin(w http.ResponseWriter, r *http.Request) {
	if !isOwnPost(w, r) {
		return
	}
	key, wanted, err := web.ReadLogin(w, r)
	if err != nil {
		http.Error(w, "the form cannot be read", http.StatusBadRequest)
		return
	}
	back := authn.LocalPath(wanted)
	if err = a.site.LoginWithKey(w, r, key); err == nil {
		redirect(w, r, back)
		return
	}
	status, _, message, _ := a.site.Refused(r, err)
	page := a.loginPage(r, back)
	page.Error = "You are not signed in: " + message + "."
	a.show(r, web.Login(w, r, status, page))
}

// serveLogout signs a browser out, and at the provider too if it can do that.
func (a *Auth) serveLogout(w http.ResponseWriter, r *http.Request) {
	if !isOwnPost(w, r) {
		return
	}
	keepOutOfLog(r)
	caller, err := a.site.Identify(r)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	target, err := a.site.Logout(w, r, caller, loginPagePath+"?signed_out=1")
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if target == "" {
		target = loginPagePath + "?signed_out=1"
	}
	redirect(w, r, target)
}

// keepOutOfLog keeps a request out of the access log, which has its URL and the one that it
// is redirected to: there are codes, states and ID tokens in those. The audit log tells
// what came of it.
func keepOutOfLog(r *http.Request) { caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true) }

// isOwnPost refuses what is not the post of a form of one of this site's own pages: also
// without a session another site's must not sign anybody in or out.
func isOwnPost(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "use POST", http.StatusMethodNotAllowed)
		return false
	}
	if err := authn.CrossOrigin.Check(r); err != nil {
		http.Error(w, "the request comes from another site's page", http.StatusForbidden)
		return false
	}
	return true
}

// show logs why a page could not be shown.
func (a *Auth) show(r *http.Request, err error) {
	if err != nil {
		a.site.Log.ErrorContext(r.Context(), "showing a page", "error", err)
	}
}
