// Package caddymodule is what knows Caddy: the registry app, the HTTP handlers, their
// Caddyfile and the command line. What they do is in the other packages.
package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App keeps a registry's content. All handlers of a configuration share it, and it
// stays open across configuration reloads.
type App struct {
	// Where blobs live. Default: the `filesystem` module with its own defaults.
	StorageRaw json.RawMessage `json:"storage,omitempty" caddy:"namespace=registry.storage inline_key=module"`

	// Where everything but blobs' bytes lives. Default: the `sqlite` module with its own
	// defaults.
	DatabaseRaw json.RawMessage `json:"database,omitempty" caddy:"namespace=registry.database inline_key=module"`

	// What a pushed manifest may name without the repository having it: `index` (an index
	// may name manifests that are not there, an image must be whole), `on` (images may
	// lack blobs too) or `off` (neither). Default: `index`.
	Sparse string `json:"sparse,omitempty"`

	// How long an upload is kept to which nothing is added. Default: 24h.
	UploadExpiry Duration `json:"upload_expiry,omitempty"`

	// When what nothing needs any more is removed.
	GC GC `json:"gc,omitzero"`

	// Which tags of this registry's own repositories are kept. The first rule that matches
	// a repository decides. Default: all.
	Retention []Retention `json:"retention,omitempty"`

	// How much this registry's own repositories may hold. A push that all quotas do not
	// allow is refused. Default: no limit.
	Quotas []Quota `json:"quotas,omitempty"`

	// When all that is stored is read again, to find what a disk has spoilt. Default:
	// never.
	Scrub *Scrub `json:"scrub,omitempty"`

	upkeep upkeep

	storage  BlobStoreModule
	database DatabaseModule
	logger   *zap.Logger
	slogger  *slog.Logger
	stop     context.CancelFunc // ends what Start began
	running  sync.WaitGroup     // is that

	audit    *slog.Logger      // takes what is to be answered for later
	keys     certmagic.Storage // Caddy's own, where the key for secrets is
	caches   []*Cache          // of all sites; set while provisioning
	names    []upstream.Names  // likewise
	auths    []*Auth           // of all sites; set while provisioning
	handlers []*Handler        // likewise

	mu     sync.Mutex // held while opening and closing
	opened *openRegistry
}

// BlobStoreModule is a guest in the namespace registry.storage.
type BlobStoreModule interface {
	// Directory is where a database file and the control socket go if nothing else is said.
	Directory() string
	// Key tells stores apart: two modules with one key open the same store.
	Key() string
	// Bytes tells where blobs are: two modules may open them in different ways.
	Bytes() string
	// Open opens the store.
	Open(context.Context) (storage.BlobStore, error)
}

// DatabaseModule is a guest in the namespace registry.database.
type DatabaseModule interface {
	// Key tells databases apart, as that of blob stores; directory is that of the blob store.
	Key(directory string) string
	// Open opens the database.
	Open(ctx context.Context, directory string) (storage.Database, error)
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "registry", New: func() caddy.Module { return new(App) }}
}

// Provision sets up the app. It opens nothing: a configuration may be provisioned only
// to be validated.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	a.slogger = ctx.Slogger()
	a.audit = slog.New(zapslog.NewHandler(a.logger.Core(), zapslog.WithName("registry.audit"), zapslog.AddStacktraceAt(noStacktrace)))
	a.keys = ctx.Storage()
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	if a.Sparse == "" {
		a.Sparse = string(storage.SparseIndex)
	}
	var err error
	if a.upkeep, err = a.resolveUpkeep(); err != nil {
		return err
	}
	return a.loadStorage(ctx)
}

// loadStorage loads the modules that say where all is kept.
func (a *App) loadStorage(ctx caddy.Context) error {
	if a.StorageRaw == nil {
		a.StorageRaw = json.RawMessage(`{"module":"filesystem"}`)
	}
	if a.DatabaseRaw == nil {
		a.DatabaseRaw = json.RawMessage(`{"module":"sqlite"}`)
	}
	module, err := ctx.LoadModule(a, "StorageRaw")
	if err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	a.storage = module.(BlobStoreModule)
	module, err = ctx.LoadModule(a, "DatabaseRaw")
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	a.database = module.(DatabaseModule)
	return nil
}

// Validate checks the options that have a set of values.
func (a *App) Validate() error {
	return checkSparse(a.Sparse)
}

func checkSparse(value string) error {
	switch storage.Sparse(value) {
	case storage.SparseIndex, storage.SparseOn, storage.SparseOff:
		return nil
	}
	return fmt.Errorf("sparse must be on, index or off, not %q", value)
}

// Start opens the storage, unless a request, of a server that was started first, did.
func (a *App) Start() error {
	opened, err := a.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	opened.log.use(a.slogger)
	opened.audit.use(a.audit)
	if err := a.lookAfter(ctx, opened); err != nil {
		cancel()
		return err
	}
	a.warnOfLibrary(ctx, opened.registry)
	a.warnOfMove(ctx, opened.registry)
	a.running.Go(func() { a.probeStorage(ctx, opened.registry) })
	if len(a.auths) == 0 {
		for _, handler := range a.handlers {
			handler.warn()
		}
		return nil
	}
	secrets, err := opened.secrets(a)
	if err != nil {
		return err
	}
	a.running.Go(func() { a.keepAccounts(ctx, opened.registry.Accounts()) })
	a.askProviders(ctx, opened.registry.Accounts(), secrets.sealer)
	return nil
}

// probeStorage tells whether a store that is elsewhere does what it is asked. If not the
// server starts all the same: it may do so in a while.
func (a *App) probeStorage(ctx context.Context, registry *storage.Registry) {
	ok, err := registry.Probe(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		a.logger.Warn("storage does not do what it is asked", zap.Error(err))
	case ok && err == nil:
		a.logger.Info("storage can do all that it is asked", zap.String("storage", a.storage.Key()))
	}
}

// warnOfMove tells if the registry takes no pushes.
func (a *App) warnOfMove(ctx context.Context, registry *storage.Registry) {
	moving, err := registry.Moving(ctx)
	if err != nil {
		a.logger.Error("asking whether the registry was moved", zap.Error(err))
	}
	if moving {
		a.logger.Warn("the registry was moved, or a move did not come to its end: it takes no pushes until it is served from there, or `caddy registry migrate --undo` is run")
	}
}

// noStacktrace is a level that nothing is logged at.
const noStacktrace = slog.Level(127)

// warnOfLibrary tells if the names that clients most often ask a mirror for are private,
// since some of them were pushed here before this was one.
func (a *App) warnOfLibrary(ctx context.Context, registry *storage.Registry) {
	for _, names := range a.names {
		if names.Default == "" {
			continue
		}
		own, err := registry.IsOwn(ctx, "library")
		if err != nil {
			a.logger.Error("asking whether library/… was pushed here", zap.Error(err))
		}
		if own {
			a.logger.Warn("library/… was pushed here, so that none of it is looked for in the default upstream; ask for it by its full name",
				zap.String("default", names.Default), zap.String("full_name", names.Default+"/library/…"))
		}
		return
	}
}

// Stop ends what works in the background. The storage stays open until Cleanup: servers
// that are stopped after this app may have requests to finish.
func (a *App) Stop() error {
	if a.stop != nil {
		a.stop()
	}
	a.running.Wait()
	return nil
}

// Cleanup closes the storage unless another configuration uses it by now.
func (a *App) Cleanup() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened == nil {
		return nil
	}
	a.opened = nil
	_, err := pool.Delete(a.key())
	return err
}

// addCache tells of a site's cache, and what names it takes, which then take no push
// anywhere. It is called while a configuration is provisioned.
func (a *App) addCache(cache *Cache, names upstream.Names) {
	a.caches, a.names = append(a.caches, cache), append(a.names, names)
}

// addAuth tells of a site's access control. It is called while a configuration is
// provisioned.
func (a *App) addAuth(auth *Auth) { a.auths = append(a.auths, auth) }

// candidates returns the repositories that a name may stand for on some site.
func (a *App) candidates(name string) []string {
	candidates := []string{name}
	for _, names := range a.names {
		candidates = append(candidates, names.Candidates(name)...)
	}
	return candidates
}

// isNamedByPolicy reports whether a policy of some site names a repository.
func (a *App) isNamedByPolicy(repository string) bool {
	return slices.ContainsFunc(a.auths, func(auth *Auth) bool { return auth.site.Policies.Names(repository) })
}

// localHosts are the names of this registry that any site knows.
func (a *App) localHosts() []string {
	var hosts []string
	for _, names := range a.names {
		hosts = append(hosts, names.Local...)
	}
	return hosts
}

func (a *App) key() string {
	return a.storage.Key() + ", " + a.database.Key(a.storage.Directory())
}

// pool has the open registries of this process, so that they outlive configurations.
var pool = caddy.NewUsagePool()

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
