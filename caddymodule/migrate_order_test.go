package caddymodule

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// TestOptionsOfAnOrderAreTakenAsTheyAre though they look like placeholders.
func TestOptionsOfAnOrderAreTakenAsTheyAre(t *testing.T) {
	t.Setenv("SECRET", `{none}x\{y}{`)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	want := &S3{Bucket: "images", AccessKeyID: "id", SecretAccessKey: "{env.SECRET}", Spool: t.TempDir()}
	if err := want.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	order, err := newMigrateOrder(&App{storage: want, database: new(SQLite)})
	if err != nil {
		t.Fatal(err)
	}
	app := &App{StorageRaw: order.Storage, DatabaseRaw: order.Database}
	if err := app.loadStorage(ctx); err != nil {
		t.Fatal(err)
	}
	if got := app.storage.(*S3).SecretAccessKey; got != `{none}x\{y}{` {
		t.Errorf("the secret has become %q", got)
	}
}
