package caddymodule

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/postgres"
)

func init() {
	caddy.RegisterModule(Postgres{})
}

// Postgres keeps everything but blobs' bytes in a PostgreSQL database, which must be there
// and may be empty. Its tables are made, and brought to what this version needs, at start.
type Postgres struct {
	// Where it is, such as `postgres://registry@db.example.com/registry`, or a connection
	// string as libpq has it. May have placeholders.
	URL string `json:"url,omitempty"`

	name string // the URL without its password
}

var errURLIsNeeded = errors.New("url is needed")

// CaddyModule returns the Caddy module information.
func (Postgres) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "registry.database.postgres", New: func() caddy.Module { return new(Postgres) }}
}

// UnmarshalCaddyfile sets up the module from Caddyfile tokens. Syntax:
//
//	postgres <url>
func (p *Postgres) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if !d.NextArg() {
		return d.ArgErr()
	}
	p.URL = d.Val()
	return noMore(d)
}

// Provision resolves the URL. Nothing is connected yet.
func (p *Postgres) Provision(caddy.Context) (err error) {
	if p.URL, err = replace(p.URL); err != nil {
		return fmt.Errorf("postgres: url: %w", err)
	}
	if p.URL == "" {
		return fmt.Errorf("postgres: %w", errURLIsNeeded)
	}
	if p.name, err = postgres.Name(p.URL); err != nil {
		return fmt.Errorf("postgres: url: %w", err)
	}
	return nil
}

// Key implements [DatabaseModule].
func (p *Postgres) Key(string) string { return "postgres " + p.name }

// Open implements [DatabaseModule].
func (p *Postgres) Open(ctx context.Context, _ string) (storage.Database, error) {
	database, err := postgres.Open(ctx, p.URL)
	if err != nil {
		return nil, fmt.Errorf("postgres %s: %w", p.name, err)
	}
	return database, nil
}

// Interface guards
var (
	_ DatabaseModule        = (*Postgres)(nil)
	_ caddy.Provisioner     = (*Postgres)(nil)
	_ caddyfile.Unmarshaler = (*Postgres)(nil)
)
