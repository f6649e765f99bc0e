package caddymodule

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

func init() {
	caddy.RegisterModule(SQLite{})
}

// SQLite keeps everything but blobs' bytes in one SQLite file.
type SQLite struct {
	// The file, which is made if need be; its folder must be there. One server at a time
	// may use it. May have placeholders. Default: `registry.db` in the storage directory.
	Path string `json:"path,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (SQLite) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "registry.database.sqlite", New: func() caddy.Module { return new(SQLite) }}
}

// UnmarshalCaddyfile sets up the module from Caddyfile tokens. Syntax:
//
//	sqlite [<path>]
func (s *SQLite) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		s.Path = d.Val()
	}
	return noMore(d)
}

// Provision resolves the path.
func (s *SQLite) Provision(caddy.Context) (err error) {
	if s.Path != "" {
		s.Path, err = resolvePath(s.Path)
	}
	return err
}

// Key implements [DatabaseModule].
func (s *SQLite) Key(directory string) string { return "sqlite " + s.path(directory) }

func (s *SQLite) path(directory string) string {
	if s.Path == "" {
		return filepath.Join(directory, "registry.db")
	}
	return s.Path
}

// Open implements [DatabaseModule].
func (s *SQLite) Open(ctx context.Context, directory string) (storage.Database, error) {
	database, err := sqlite.Open(ctx, s.path(directory), sqlite.Options{})
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	return database, nil
}

// Interface guards
var (
	_ DatabaseModule        = (*SQLite)(nil)
	_ caddy.Provisioner     = (*SQLite)(nil)
	_ caddyfile.Unmarshaler = (*SQLite)(nil)
)
