// Package registry is what xcaddy imports to build a Caddy that is an OCI image
// registry. The modules are in package caddymodule.
package registry

import _ "github.com/eblume/caddy-registry/caddymodule" // registers the modules
