package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler answers the OCI distribution API, everything under /v2/, from the storage of
// the registry app. Other paths it passes on.
type Handler struct {
	app  *App
	api  *distribution.Handler
	open func() error // once; sets the api's registry
	warn func()       // once; tells that nothing guards this
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.registry", New: func() caddy.Module { return new(Handler) }}
}

// Provision finds the app.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := ctx.App("registry")
	if err != nil {
		return fmt.Errorf("registry app: %w", err)
	}
	registry := app.(*App)
	h.app = registry
	h.api = &distribution.Handler{Sparse: storage.Sparse(registry.Sparse), Log: ctx.Slogger(), Changed: registry.auditChange}
	// Servers may be started before the app is.
	h.open = sync.OnceValue(func() error {
		opened, err := registry.open()
		if err == nil {
			h.api.Registry = opened.registry
		}
		return err
	})
	h.warn = sync.OnceFunc(func() {
		ctx.Logger().Warn("there is no access control on a site: whoever can reach it may pull, push and delete")
	})
	registry.handlers = append(registry.handlers, h)
	return nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if h.app.serveHealth(w, r) {
		return nil
	}
	if !isAPI(r.URL.Path) {
		return next.ServeHTTP(w, r)
	}
	if err := h.open(); err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	target, err := distribution.ParsePath(r.URL.EscapedPath())
	logFields(r, target)
	answer, answered := count(w, r, target)
	defer answered()
	if err == nil && target.Repository != "" {
		err = h.checkName(answer, r, target)
	}
	var access distribution.Authorizer
	if err == nil {
		access, err = authorizer(r, target, h.captures(r))
	}
	if err != nil {
		h.api.Refuse(answer, r, err)
		return nil
	}
	if access == distribution.Everything {
		h.warn()
	}
	if target.IsBlob() || target.IsUpload() {
		defer beGenerous(r)()
	}
	h.api.Serve(answer, r, target, h.api.Registry, access)
	return nil
}

// isAPI reports whether a path is the distribution API's.
func isAPI(path string) bool {
	return path == "/v2" || strings.HasPrefix(path, "/v2/")
}

// checkName refuses names that are not this registry's own, here or on another site.
func (h *Handler) checkName(w http.ResponseWriter, r *http.Request, target distribution.Target) error {
	if distribution.IsPush(r.Method) {
		if err := distribution.CheckPush(target.Repository); err != nil {
			return err
		}
		for _, names := range h.app.names {
			if _, err := names.MapPush(target.Repository, "", r.Host); err != nil {
				return refusal(err)
			}
		}
	}
	ns := namespace(r.URL)
	if ns == "" || caddyhttp.GetVar(r.Context(), varMapped) != nil {
		return nil
	}
	if _, err := (upstream.Names{Local: h.app.localHosts()}).Map(target.Repository, ns, r.Host, nil); err != nil {
		return refusal(err)
	}
	w.Header()["Oci-Namespace"] = []string{ns}
	return nil
}

// captures returns what reports whether a push would take a name from an upstream's: one
// that some site's cache looks for in its default upstream, as long as nothing says that
// it is this registry's own. It is nil where no site does that.
func (h *Handler) captures(r *http.Request) func(repository string) (bool, error) {
	if !slices.ContainsFunc(h.app.names, func(names upstream.Names) bool { return names.Default != "" }) {
		return nil
	}
	return func(repository string) (bool, error) {
		if !slices.ContainsFunc(h.app.names, func(names upstream.Names) bool {
			return names.Default != "" && !names.Private.Match(repository)
		}) {
			return false, nil
		}
		if h.app.isNamedByPolicy(repository) {
			return false, nil
		}
		own, err := h.api.Registry.IsOwn(r.Context(), repository)
		return !own, err
	}
}

const (
	// sendChunk is how much of a blob is handed to the kernel at a time, 4 times Caddy's
	// default.
	sendChunk = 4 * caddyhttp.DefaultMaxWriteChunk
	// uploadPause is how long a client may send nothing: one that compresses a layer
	// while it pushes may need a while.
	uploadPause = 10 * time.Minute
)

// beGenerous widens the server's idle timeouts for blobs, until restore is called. A
// client that would have been quick enough before still is: there are more bytes in a
// chunk, and as much more time.
func beGenerous(r *http.Request) (restore func()) {
	reader, writer := caddyhttp.IdleTimeoutsFromContext(r.Context())
	restoreReader, restoreWriter := func() {}, func() {}
	if reader != nil {
		restoreReader = reader.Override(max(reader.Deadline.Timeout, uploadPause), 0)
	}
	if writer != nil {
		restoreWriter = writer.Override(4*writer.Deadline.Timeout, writer.Deadline.MinRate, sendChunk)
	}
	return func() {
		restoreWriter()
		restoreReader()
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyfile.Unmarshaler       = (*Handler)(nil)
)
