package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

// openRegistry is a registry, what is on its way there, and the socket by which the
// command line reaches it.
type openRegistry struct {
	registry  *storage.Registry
	blobs     storage.BlobStore // that it has its bytes in
	key       string            // tells it from others
	bytes     string            // tells where its blobs are
	directory string            // of the storage
	transfers *upstream.Transfers
	control   *control
	throttle  *authn.Throttle
	once      *authn.Once
	log       *liveLog
	audit     *liveLog
	upkeep    atomic.Pointer[upkeep]   // of the configuration that was started last
	caches    atomic.Pointer[[]*Cache] // likewise; nil if none was

	mu      sync.Mutex
	guarded *secrets // nil as long as nothing needs them
}

// secrets returns what encrypts and makes tokens.
func (o *openRegistry) secrets(a *App) (*secrets, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.guarded == nil {
		secrets, err := newSecrets(context.Background(), a.keys, o.registry.Accounts(), slog.New(o.log))
		if err != nil {
			return nil, err
		}
		o.guarded = secrets
	}
	return o.guarded, nil
}

// Destruct closes the registry when no configuration uses it any more.
func (o *openRegistry) Destruct() error {
	o.transfers.Close()
	flushed := o.registry.Accounts().FlushUsed(context.Background())
	return errors.Join(flushed, o.control.close(), o.registry.Close())
}

// open returns the registry, which is opened if it is not.
func (a *App) open() (*openRegistry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened != nil {
		return a.opened, nil
	}
	value, _, err := pool.LoadOrNew(a.key(), func() (caddy.Destructor, error) { return a.newRegistry(context.Background()) })
	if err != nil {
		return nil, err
	}
	a.opened = value.(*openRegistry)
	return a.opened, nil
}

// openOver opens the database, and returns the registry that it makes with a blob store. That
// is closed with it, and also if there is an error.
func (a *App) openOver(ctx context.Context, blobs storage.BlobStore) (*storage.Registry, error) {
	database, err := a.database.Open(ctx, a.storage.Directory())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database: %w", err), blobs.Close())
	}
	registry := storage.New(blobs, database)
	// What cannot be reached now may be later, but not what is not there.
	if err := registry.Check(ctx); err != nil && !errors.Is(err, storage.ErrUnavailable) {
		return nil, errors.Join(fmt.Errorf("storage: %w", err), registry.Close())
	}
	return registry, nil
}

func (a *App) newRegistry(ctx context.Context) (_ caddy.Destructor, err error) {
	blobs, err := a.storage.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("storage: %w", err)
	}
	registry, err := a.openOver(ctx, blobs)
	if err != nil {
		return nil, err
	}
	directory := a.storage.Directory()
	live := newLiveLog(a.slogger)
	log := slog.New(live)
	opened := &openRegistry{
		registry:  registry,
		blobs:     blobs,
		key:       a.key(),
		bytes:     a.storage.Bytes(),
		directory: directory,
		transfers: upstream.NewTransfers(registry, log),
		throttle:  authn.NewThrottle(),
		once:      authn.NewOnce(),
		log:       live,
		audit:     newLiveLog(a.audit),
	}
	opened.upkeep.Store(&a.upkeep)
	opened.caches.Store(&a.caches)
	if opened.control, err = listenControl(filepath.Join(directory, "control.sock"), opened.controlHandler(), log); err != nil {
		opened.transfers.Close()
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), registry.Close())
	}
	a.logger.Debug("storage is open", zap.String("storage", a.key()))
	return opened, nil
}
