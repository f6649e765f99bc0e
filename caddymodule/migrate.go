package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/eblume/caddy-registry/backup"
	"github.com/eblume/caddy-registry/storage"
)

// migrateOrder asks for a registry to be moved to other storage, or another database. Their
// options have no placeholders: what they stand for is known to who asks.
type migrateOrder struct {
	Storage  json.RawMessage `json:"storage"`
	Database json.RawMessage `json:"database"`
}

// newMigrateOrder asks for what is to be where an app has it.
func newMigrateOrder(to *App) migrateOrder {
	return migrateOrder{Storage: inline(to.storage), Database: inline(to.database)}
}

// inline returns the options of a module that was provisioned, which are resolved by then.
func inline(module any) json.RawMessage {
	return caddyconfig.JSONModuleObject(module, "module", module.(caddy.Module).CaddyModule().ID.Name(), nil)
}

var errSamePlace = errors.New("all of it is there already")

// migrate moves the registry to where an order says.
func (o *openRegistry) migrate(ctx context.Context, order migrateOrder, report storage.Report) (_ backup.Summary, err error) {
	caddyCtx, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	defer cancel()
	target := &App{StorageRaw: order.Storage, DatabaseRaw: order.Database}
	if err := target.loadStorage(caddyCtx); err != nil {
		return backup.Summary{}, err
	}
	if target.key() == o.key {
		return backup.Summary{}, errSamePlace
	}
	options := backup.MigrateOptions{SameStore: target.storage.Key() == o.storageKey, Report: report}
	var blobs storage.BlobStore = borrowed{o.blobs}
	if !options.SameStore {
		if blobs, err = target.storage.Open(ctx); err != nil {
			return backup.Summary{}, fmt.Errorf("storage: %w", err)
		}
	}
	to, err := target.openOver(ctx, blobs)
	if err != nil {
		return backup.Summary{}, err
	}
	summary, err := backup.Migrate(ctx, o.registry, to, options)
	return summary, errors.Join(err, to.Close())
}

// borrowed is a store of another registry, whose uploads are not this one's.
type borrowed struct{ storage.BlobStore }

func (borrowed) Uploads(context.Context) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}

func (borrowed) Close() error { return nil }
