// Command caddy is Caddy with its standard modules and this registry.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // Caddy's own modules

	_ "github.com/eblume/caddy-registry" // the registry's
)

func main() { caddycmd.Main() }
