package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/distribution"
)

func init() {
	caddy.RegisterModule(Auth{})
}

// CaddyModule returns the Caddy module information.
func (Auth) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.registry_auth", New: func() caddy.Module { return new(Auth) }}
}

// Provision sets up who is asked about whom. Nobody is asked anything yet.
func (a *Auth) Provision(ctx caddy.Context) error {
	options, err := a.resolve()
	if err != nil {
		return err
	}
	module, err := ctx.App("registry")
	if err != nil {
		return fmt.Errorf("registry app: %w", err)
	}
	app := module.(*App)
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	log := ctx.Slogger()
	a.site = &authn.Site{
		Keys:       authn.KeyRules{Lifetime: options.keys.lifetime, MaxLifetime: options.keys.maxLifetime, Grace: options.keys.grace},
		Policies:   options.policies,
		Admins:     options.admins,
		PublicURL:  options.publicURL,
		Candidates: app.candidates,
		Address:    clientAddress,
		Secure:     isSecure,
		Failed:     func(reason string) { authFailures.WithLabelValues(reason).Inc() },
		Log:        log,
		Audit:      app.audit,
	}
	if len(options.policies) == 0 {
		ctx.Logger().Warn("there is no policy: nobody may do anything")
	}
	for _, o := range options.providers {
		a.site.Providers = append(a.site.Providers, authn.Provider{
			Provider: oidc.NewProvider(oidc.Config{
				Name: o.name, Issuer: o.issuer, ClientID: o.clientID, ClientSecret: o.clientSecret, Scopes: o.scopes,
				UsernameClaim: o.usernameClaim, GroupsClaim: o.groupsClaim, Prefix: o.prefix, Reserved: options.prefixesBut(o.prefix), Log: log,
			}),
			CallbackPath: o.callbackPath,
			Refresh:      o.refresh,
		})
	}
	for _, o := range options.jobs {
		issuer, err := o.newIssuer(log)
		if err != nil {
			return fmt.Errorf("workload_identity %s: %w", o.name, err)
		}
		a.site.Jobs = append(a.site.Jobs, issuer)
	}
	a.setEndpoints()
	app.addAuth(a)
	// Servers may be started before the app is.
	a.open = sync.OnceValue(func() error {
		opened, err := app.open()
		if err != nil {
			return err
		}
		secrets, err := opened.secrets(app)
		if err != nil {
			return err
		}
		a.site.Accounts, a.site.Throttle, a.site.Once = opened.registry.Accounts(), opened.throttle, opened.once
		a.site.Sealer, a.site.Tokens = secrets.sealer, secrets.tokens
		if a.site.Guests, err = app.guests(a); err != nil {
			log.Warn(err.Error())
		}
		return nil
	})
	return nil
}

func (o *jobOptions) newIssuer(log *slog.Logger) (*job.Issuer, error) {
	client, err := clientTrusting(o.caFile)
	if err != nil {
		return nil, err
	}
	config := job.Config{
		Name: o.name, Issuer: o.issuer, Audience: o.audience, JWKSURL: o.jwksURL,
		User: o.user, Groups: o.groups, Client: client, Log: log,
	}
	for _, match := range o.match {
		config.Match = append(config.Match, job.Match{Claim: match.claim, Values: match.globs})
	}
	return job.NewIssuer(config)
}

// The paths that are Auth's own, besides the callbacks of providers.
const (
	tokenPath   = "/auth/token"
	sessionPath = "/auth/session"
	logoutPath  = "/auth/logout"
)

// keyPaths are where the API for keys is: here, and where zot has it.
var keyPaths = []string{"/auth/apikey", "/zot/auth/apikey"}

func (a *Auth) setEndpoints() {
	a.endpoints = map[string]http.HandlerFunc{
		tokenPath:   func(w http.ResponseWriter, r *http.Request) { a.site.ServeToken(w, r) },
		sessionPath: a.serveKeyLogin,
		logoutPath:  a.serveLogout,
	}
	for _, path := range keyPaths {
		a.endpoints[path] = func(w http.ResponseWriter, r *http.Request) { a.site.ServeKeys(w, r) }
		a.endpoints[path+"/rotate"] = func(w http.ResponseWriter, r *http.Request) { a.site.ServeRotate(w, r) }
	}
	for i := range a.site.Providers {
		provider := &a.site.Providers[i]
		a.endpoints[authn.LoginPath+provider.Name()] = a.loginStep(provider, (*authn.Site).BeginLogin)
		a.endpoints[provider.CallbackPath] = a.loginStep(provider, (*authn.Site).FinishLogin)
	}
}

func (a *Auth) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if err := a.open(); err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	caddyhttp.SetVar(r.Context(), varAuth, a)
	if isAPI(r.URL.Path) {
		return a.serveAPI(w, r, next)
	}
	if serve, ok := a.endpoints[r.URL.Path]; ok {
		serve(w, r)
		return nil
	}
	return next.ServeHTTP(w, r)
}

// serveAPI finds out who asks. What they may do is decided where it is known what they
// ask for.
func (a *Auth) serveAPI(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	api := distribution.Handler{Log: a.site.Log}
	caller, err := a.site.Identify(r)
	if err != nil {
		logTarget(r)
		api.Refuse(w, r, a.refuseCredentials(r, err))
		return nil
	}
	a.remember(r, caller)
	warn(w, caller)
	// Docker sends credentials later only if it is asked for them here.
	if (r.URL.Path == "/v2/" || r.URL.Path == "/v2") && caller.Identity == nil && caller.Token == nil {
		logTarget(r)
		api.Refuse(w, r, &distribution.Refusal{
			Status: http.StatusUnauthorized, Code: "UNAUTHORIZED", Err: errPingAnonymous,
			Challenge: a.challenge(r, "", ""),
		})
		return nil
	}
	return next.ServeHTTP(w, r)
}

var (
	errCrossSite = &distribution.Refusal{
		Status: http.StatusForbidden, Code: "DENIED",
		Err: errors.New("the request comes from another site's page"),
	}
	errPingAnonymous = errors.New("fetch a token, which needs no account where anonymous may read")
)

func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// logTarget tells the access log what a request is about that goes no further.
func logTarget(r *http.Request) {
	target, _ := distribution.ParsePath(r.URL.EscapedPath())
	logFields(r, target)
}

// clientAddress returns whose request it is, by Caddy's trusted_proxies.
func clientAddress(r *http.Request) string {
	address, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return address
}

// isSecure tells whether the client's connection is encrypted, if need be by what a
// trusted proxy says.
func isSecure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted && r.Header.Get("X-Forwarded-Proto") == "https"
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Auth)(nil)
	_ caddyhttp.MiddlewareHandler = (*Auth)(nil)
	_ caddyfile.Unmarshaler       = (*Auth)(nil)
)
