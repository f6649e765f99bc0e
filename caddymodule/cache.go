package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/upstream"
)

func init() {
	caddy.RegisterModule(Cache{})
}

// CaddyModule returns the Caddy module information.
func (Cache) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.registry_cache", New: func() caddy.Module { return new(Cache) }}
}

// Provision sets up the clients of the upstreams. None of them is asked anything yet.
func (c *Cache) Provision(ctx caddy.Context) error {
	options, err := c.resolve()
	if err != nil {
		return err
	}
	module, err := ctx.App("registry")
	if err != nil {
		return fmt.Errorf("registry app: %w", err)
	}
	app := module.(*App)
	c.app = app
	app.addCache(c, options.names)
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	c.names = options.names
	c.api = &distribution.Handler{Log: ctx.Slogger(), Changed: app.auditChange}
	caches := make([]upstream.Options, 0, len(options.upstreams))
	for _, o := range options.upstreams {
		client, err := upstream.NewClient(upstream.Config{
			Name:         o.name,
			URLs:         o.urls,
			Username:     o.username,
			Password:     o.password,
			DockerConfig: o.dockerConfig,
			CAFile:       o.caFile,
			Log:          ctx.Slogger(),
			Metrics:      clientMetrics(o.name),
		})
		if err != nil {
			return fmt.Errorf("upstream %s: %w", o.name, err)
		}
		c.clients = append(c.clients, client)
		caches = append(caches, upstream.Options{
			Name:         o.name,
			Client:       client,
			Fresh:        o.fresh,
			StaleIfError: o.staleIfError,
			NotFoundTTL:  o.notFoundTTL,
			Access:       o.access,
			Prefetch:     options.prefetch,
			Meter:        cacheMeter(o.name),
			Log:          ctx.Slogger(),
		})
	}
	// Servers may be started before the app is.
	c.open = sync.OnceValue(func() error {
		opened, err := app.open()
		if err != nil {
			return err
		}
		c.api.Registry = opened.registry
		c.room = &upstream.Room{
			Registry:  opened.registry,
			Transfers: opened.transfers,
			MinFree:   func(total int64) int64 { return int64(options.minFree.of(uint64(total))) },
			MaxSize:   options.maxSize,
			MaxIdle:   options.maxIdle,
			Keep:      options.keep.Match,
			Log:       ctx.Slogger(),
		}
		c.caches = make(map[string]*upstream.Cache, len(caches))
		for _, o := range caches {
			o.Room = c.room
			c.caches[o.Name] = upstream.NewCache(o, opened.registry, opened.transfers)
		}
		return nil
	})
	return nil
}

// Cleanup lets go of idle connections.
func (c *Cache) Cleanup() error {
	for _, client := range c.clients {
		client.Close()
	}
	return nil
}

func (c *Cache) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if c.app.serveHealth(w, r) {
		return nil
	}
	if !isAPI(r.URL.Path) {
		return next.ServeHTTP(w, r)
	}
	if err := c.open(); err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	target, err := distribution.ParsePath(r.URL.EscapedPath())
	logFields(r, target)
	answer, answered := count(w, r, target)
	mapped, access, err := c.prepare(answer, r, target, err)
	switch {
	case err != nil:
		defer answered()
		c.api.Refuse(answer, r, refusal(err))
	case target.Repository == "":
		defer answered()
		c.api.Serve(answer, r, target, c.api.Registry, access)
	case mapped.Upstream == "":
		return c.pass(w, r, next, target)
	default:
		defer answered()
		c.serve(answer, r, target, mapped, access)
	}
	return nil
}

// prepare returns which repository a request means, and what decides about it. unreadable
// is what is wrong with its path.
func (c *Cache) prepare(w http.ResponseWriter, r *http.Request, target distribution.Target, unreadable error) (mapped upstream.Mapped, access distribution.Authorizer, err error) {
	if unreadable != nil {
		return mapped, nil, unreadable
	}
	if access, err = authorizer(r, target, nil); err != nil || target.Repository == "" {
		return mapped, access, err
	}
	ns := namespace(r.URL)
	if mapped, err = c.resolveName(r, target, ns); err == nil && ns != "" {
		w.Header()["Oci-Namespace"] = []string{ns}
	}
	return mapped, access, err
}

// resolveName returns which repository a request means. What is pushed, and uploads, are
// never sent to an upstream; neither are deletions by a name that only might be its.
func (c *Cache) resolveName(r *http.Request, target distribution.Target, ns string) (upstream.Mapped, error) {
	if distribution.IsPush(r.Method) || target.IsUpload() {
		name, err := c.names.MapPush(target.Repository, ns, r.Host)
		return upstream.Mapped{Repository: name}, err
	}
	mapped, err := c.names.Map(target.Repository, ns, r.Host, func(name string) (bool, error) {
		if c.isClaimed(r, name) {
			return true, nil
		}
		return c.api.Registry.IsOwn(r.Context(), name)
	})
	if mapped.ByDefault && r.Method == http.MethodDelete {
		mapped = upstream.Mapped{Repository: target.Repository}
	}
	return mapped, err
}

// isClaimed reports whether a name is private before anything was pushed to it: a policy
// names it, or who asks may make it. Clients look for what they are about to push.
func (c *Cache) isClaimed(r *http.Request, name string) bool {
	if c.app.isNamedByPolicy(name) {
		return true
	}
	auth := authOf(r)
	if auth == nil {
		return false
	}
	caller, err := callerOf(r, auth)
	if err != nil || caller.Identity == nil {
		return false
	}
	if _, err := c.names.MapPush(name, "", r.Host); err != nil {
		return false
	}
	// Nothing of that name is here yet, so that it takes more than create to make it.
	return auth.site.Policies.Decide(caller.Identity, authz.Update, name, "").Allowed
}

// serve answers from the copy of an upstream's repository, and fetches what it lacks.
func (c *Cache) serve(w http.ResponseWriter, r *http.Request, target distribution.Target, mapped upstream.Mapped, access distribution.Authorizer) {
	target.Repository = mapped.Repository
	fields := logFields(r, target)
	view := c.caches[mapped.Upstream].View(mapped, func(result upstream.Result) {
		if result != upstream.Negative {
			w.Header()["X-Registry-Cache"] = []string{string(result)}
		}
		if fields != nil {
			fields.Set(zap.String("registry_cache", string(result)))
		}
	})
	if target.IsBlob() {
		defer beGenerous(r)()
	}
	c.api.Serve(w, r, target, source{view}, access)
}

// Variables of a request by which handlers tell each other what is done.
const (
	varMapped    = "registry.mapped" // its name is this registry's own
	varUnhandled = "unhandled"       // set by Caddy: no handler answered
)

// pass leaves what is this registry's own to the handlers that follow. Without one that
// answers this is a mirror and nothing else.
func (c *Cache) pass(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, target distribution.Target) error {
	caddyhttp.SetVar(r.Context(), varMapped, true)
	err := next.ServeHTTP(w, r)
	if err != nil || caddyhttp.GetVar(r.Context(), varUnhandled) == nil {
		return err
	}
	caddyhttp.SetVar(r.Context(), varUnhandled, false) // the access log would say NOP
	answer, answered := count(w, r, target)
	defer answered()
	c.api.Refuse(answer, r, errOnlyMirror)
	return nil
}

// namespace returns the registry that a request says its repository is of, as containerd
// tells a mirror.
func namespace(u *url.URL) string {
	if u.RawQuery == "" {
		return ""
	}
	return u.Query().Get("ns")
}

// logFields adds to the access log what a request is about, and returns the fields, nil
// if nothing is logged.
func logFields(r *http.Request, target distribution.Target) *caddyhttp.ExtraLogFields {
	fields, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if !ok {
		return nil
	}
	if target.Repository != "" {
		fields.Set(zap.String("registry_repo", target.Repository))
	}
	fields.Set(zap.String("registry_operation", target.Operation(r.Method)))
	return fields
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Cache)(nil)
	_ caddy.CleanerUpper          = (*Cache)(nil)
	_ caddyhttp.MiddlewareHandler = (*Cache)(nil)
	_ caddyfile.Unmarshaler       = (*Cache)(nil)
)
