package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

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
func newMigrateOrder(to *App) (migrateOrder, error) {
	store, storeErr := inline(to.storage)
	database, err := inline(to.database)
	return migrateOrder{Storage: store, Database: database}, errors.Join(storeErr, err)
}

// inline returns the options of a module that was provisioned, which are resolved by then:
// what looks like a placeholder in them is none.
func inline(module any) (json.RawMessage, error) {
	options := caddyconfig.JSONModuleObject(module, "module", module.(caddy.Module).CaddyModule().ID.Name(), nil)
	var fields map[string]any
	if err := json.Unmarshal(options, &fields); err != nil {
		return nil, err
	}
	for name, value := range fields {
		if text, ok := value.(string); ok {
			fields[name] = strings.ReplaceAll(text, "{", `\{`)
		}
	}
	return json.Marshal(fields)
}

var (
	errSamePlace     = errors.New("all of it is there already")
	errSameDirectory = errors.New("both configurations have their files there; name another directory in the new one, by spool or filesystem")
)

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
	options := backup.MigrateOptions{SameStore: target.storage.Bytes() == o.bytes, Report: report}
	blobs := storage.Borrow(o.blobs)
	if options.SameStore {
		// Its own files, if it has some, may be where there are none yet.
		if err := os.MkdirAll(target.storage.Directory(), 0o700); err != nil {
			return backup.Summary{}, err
		}
	} else {
		if target.storage.Directory() == o.directory {
			return backup.Summary{}, fmt.Errorf("%s: %w", o.directory, errSameDirectory)
		}
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
