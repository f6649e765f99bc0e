package caddymodule

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
)

func init() {
	caddy.RegisterModule(Filesystem{})
}

// Filesystem keeps blobs as files in a directory.
type Filesystem struct {
	// The directory, which is made if need be. One server at a time may use it. May have
	// placeholders. Default: `registry` in Caddy's data directory.
	Path string `json:"path,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Filesystem) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "registry.storage.filesystem", New: func() caddy.Module { return new(Filesystem) }}
}

// UnmarshalCaddyfile sets up the module from Caddyfile tokens. Syntax:
//
//	filesystem [<path>]
func (f *Filesystem) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if d.NextArg() {
		f.Path = d.Val()
	}
	return noMore(d)
}

// Provision resolves the path.
func (f *Filesystem) Provision(caddy.Context) (err error) {
	if f.Path == "" {
		f.Path = filepath.Join(caddy.AppDataDir(), "registry")
		return nil
	}
	f.Path, err = resolvePath(f.Path)
	return err
}

// Directory implements [BlobStoreModule].
func (f *Filesystem) Directory() string { return f.Path }

// Key implements [BlobStoreModule].
func (f *Filesystem) Key() string { return "filesystem " + f.Path }

// Bytes implements [BlobStoreModule].
func (f *Filesystem) Bytes() string { return f.Key() }

// Open implements [BlobStoreModule].
func (f *Filesystem) Open(ctx context.Context) (storage.BlobStore, error) {
	store, err := filesystem.Open(ctx, f.Path)
	if err != nil {
		return nil, fmt.Errorf("filesystem %s: %w", f.Path, err)
	}
	return store, nil
}

// Interface guards
var (
	_ BlobStoreModule       = (*Filesystem)(nil)
	_ caddy.Provisioner     = (*Filesystem)(nil)
	_ caddyfile.Unmarshaler = (*Filesystem)(nil)
)
