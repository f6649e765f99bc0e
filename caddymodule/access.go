package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/distribution"
)

// Variables of a request by which registry_auth tells the handlers that follow.
const (
	varAuth   = "registry.auth"   // the *Auth that guards them
	varCaller = "registry.caller" // the *authn.Caller
)

// authOf returns what guards a request, nil if nothing does.
func authOf(r *http.Request) *Auth {
	auth, _ := caddyhttp.GetVar(r.Context(), varAuth).(*Auth)
	return auth
}

// callerOf returns who sent a request that auth guards. That is known by now unless
// something rewrote the request in between.
func callerOf(r *http.Request, auth *Auth) (*authn.Caller, error) {
	if caller, ok := caddyhttp.GetVar(r.Context(), varCaller).(*authn.Caller); ok {
		return caller, nil
	}
	caller, err := auth.site.Identify(r)
	if err != nil {
		return nil, err
	}
	auth.remember(r, caller)
	return caller, nil
}

// access is what the sender of one request may do, by a site's policies.
type access struct {
	auth   *Auth
	caller *authn.Caller
	r      *http.Request
	// name is the repository as the request's path has it, which tokens are made for.
	name string
	// captures reports whether a push to a repository would take its name from an
	// upstream's, for those who ask for it without saying whose. nil: none can.
	captures func(repository string) (bool, error)
	captured map[string]bool // what captures said
}

// authorizer returns what decides about a request.
func authorizer(r *http.Request, target distribution.Target, captures func(string) (bool, error)) (distribution.Authorizer, error) {
	auth := authOf(r)
	if auth == nil {
		return distribution.Everything, nil
	}
	caller, err := callerOf(r, auth)
	if err != nil {
		return nil, auth.refuseCredentials(r, err)
	}
	if !isSafe(r.Method) && caller.SameOrigin(r) != nil {
		return nil, errCrossSite
	}
	return &access{auth: auth, caller: caller, r: r, name: target.Name(), captures: captures}, nil
}

// Authorize implements [distribution.Authorizer].
func (a *access) Authorize(actions authz.Action, repository, tag string) error {
	decision := a.auth.site.Policies.Decide(a.caller.Identity, actions, repository, tag)
	if decision.Allowed && actions&authz.Push != 0 && a.captures != nil {
		// Whoever may only create would otherwise become the one whose grafana/x all pull.
		update := a.auth.site.Policies.Decide(a.caller.Identity, authz.Update, repository, "")
		if !update.Allowed {
			captures, err := a.isCaptured(repository)
			if err != nil {
				return err
			}
			if captures {
				decision = update
			}
		}
	}
	if !decision.Allowed {
		return a.refuse(decision.String(), actions)
	}
	if token := a.caller.Token; token != nil && !token.Allows("repository", a.name, scopeAction(actions)) {
		return a.insufficient(actions)
	}
	return nil
}

func (a *access) isCaptured(repository string) (bool, error) {
	if captured, ok := a.captured[repository]; ok {
		return captured, nil
	}
	captured, err := a.captures(repository)
	if err == nil {
		a.captured = map[string]bool{repository: captured}
	}
	return captured, err
}

// AuthorizeListing implements [distribution.Authorizer].
func (a *access) AuthorizeListing() error {
	if !a.auth.site.Policies.ReadsAnything(a.caller.Identity) {
		return a.refuse(a.caller.String()+" may not list repositories: no policy lets them read any", authz.Read)
	}
	if token := a.caller.Token; token != nil && !token.Allows("registry", "catalog", "pull") {
		return a.insufficient(authz.Read)
	}
	return nil
}

// Readable implements [distribution.Authorizer].
func (a *access) Readable(repository string) bool {
	return a.auth.site.Policies.Decide(a.caller.Identity, authz.Read, repository, authz.AnyTag).Allowed
}

// Public implements [distribution.Authorizer].
func (a *access) Public(repository string) bool {
	return a.auth.site.Policies.Decide(nil, authz.Read, repository, authz.AnyTag).Allowed
}

// refuse returns how somebody is told that they may not: who is not known may try again
// and say.
func (a *access) refuse(message string, actions authz.Action) error {
	a.auth.site.AuditRequest(a.r, "refused", a.caller.String(), "repository", a.name, "action", actions.String(), "reason", message)
	if a.caller.Identity == nil {
		// Policies, which may name what is not to be known, are told only to who is known.
		return &distribution.Refusal{
			Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Err: errNotAnonymous(actions, a.name),
			Challenge: a.auth.challenge(a.r, a.scope(actions), ""),
		}
	}
	return &distribution.Refusal{Status: http.StatusForbidden, Code: "DENIED", Err: errors.New(message)}
}

func errNotAnonymous(actions authz.Action, name string) error {
	if name == "" {
		return errors.New("anonymous may not list repositories: log in, or send an API key")
	}
	return fmt.Errorf("anonymous may not %s %q: log in, or send an API key", actions, name)
}

// insufficient returns how a client is told to fetch another token.
func (a *access) insufficient(actions authz.Action) error {
	return &distribution.Refusal{
		Status: http.StatusUnauthorized, Code: "UNAUTHORIZED",
		Err:       errors.New("the token was not made for this: fetch one of scope " + a.scope(actions)),
		Challenge: a.auth.challenge(a.r, a.scope(actions), "insufficient_scope"),
	}
}

// scopeAction returns what tokens call some actions.
func scopeAction(actions authz.Action) string {
	switch {
	case actions&authz.Push != 0:
		return "push"
	case actions&authz.Delete != 0:
		return "delete"
	}
	return "pull"
}

// scope returns the scope that a token for some actions needs.
func (a *access) scope(actions authz.Action) string {
	if a.name == "" {
		return "registry:catalog:*"
	}
	action := scopeAction(actions)
	if action == "push" {
		action = "pull,push" // as Docker's registry asks for: clients look before they push
	}
	return "repository:" + a.name + ":" + action
}

// challenge returns where a client is to fetch a token (RFC 6750, section 3).
func (a *Auth) challenge(r *http.Request, scope, problem string) string {
	challenge := `Bearer realm="` + a.site.RequestURL(r) + `/auth/token",service="` + r.Host + `"`
	if scope != "" {
		challenge += `,scope="` + scope + `"`
	}
	if problem != "" {
		challenge += `,error="` + problem + `"`
	}
	return challenge
}

// remember tells the handlers that follow, and the logs, who sent a request.
func (a *Auth) remember(r *http.Request, caller *authn.Caller) {
	caddyhttp.SetVar(r.Context(), varCaller, caller)
	if fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		fields.Set(zap.String("registry_user", caller.String()))
	}
	if caller.Identity == nil {
		return
	}
	if replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		replacer.Set("http.auth.user.id", caller.Name)
	}
}

// refuseCredentials returns how a client is told what is wrong with its credentials, not
// too quickly if that went wrong before.
func (a *Auth) refuseCredentials(r *http.Request, err error) error {
	status, code, message, retry := a.site.Refused(r, err)
	refused := &distribution.Refusal{Status: status, Code: code, Err: errors.New(message), RetryAfter: retry}
	if status == http.StatusUnauthorized {
		refused.Challenge = a.challenge(r, "", "invalid_token")
	}
	return refused
}

// warn tells the bearer of an API key that it ends soon.
func warn(w http.ResponseWriter, caller *authn.Caller) {
	if warning := caller.Warning(time.Now()); warning != "" {
		w.Header()["Warning"] = []string{warning}
	}
}

// Interface guard
var _ distribution.Authorizer = (*access)(nil)
