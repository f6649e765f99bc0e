package caddymodule

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

// UI is the registry's web pages. Other paths it passes on.
type UI struct{}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	registry_ui [<matcher>]
func (u *UI) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	return noMore(d)
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*UI)(nil)
)
