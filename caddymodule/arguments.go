package caddymodule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// hasPlaceholder reports whether a value is only known when the server starts.
func hasPlaceholder(value string) bool { return strings.Contains(value, "{") }

// checkUnlessPlaceholder checks a value that is known already.
func checkUnlessPlaceholder(value string, check func(string) error) error {
	if check == nil || hasPlaceholder(value) {
		return nil
	}
	return check(value)
}

// unmarshalArg reads an option's one argument, and checks it if that can be done yet.
func unmarshalArg(d *caddyfile.Dispenser, value *string, check func(string) error) error {
	option := d.Val()
	if !d.AllArgs(value) || *value == "" {
		return d.ArgErr()
	}
	if err := checkUnlessPlaceholder(*value, check); err != nil {
		return d.WrapErr(fmt.Errorf("%s: %w", option, err))
	}
	return nil
}

// unmarshalOptions reads a block's options, each of them once unless it is one of several.
func unmarshalOptions(d *caddyfile.Dispenser, read func(option string) error, several ...string) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] && !slices.Contains(several, option) {
			return d.Errf("%s is given twice", option)
		}
		seen[option] = true
		if err := read(option); err != nil {
			return err
		}
	}
	return nil
}

// unmarshalArgs reads an option's arguments, at least one.
func unmarshalArgs(d *caddyfile.Dispenser) ([]string, error) {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return nil, d.ArgErr()
	}
	return args, nil
}

// unmarshalGlobs reads an option's globs, at least one.
func unmarshalGlobs(d *caddyfile.Dispenser) ([]string, error) {
	args, err := unmarshalArgs(d)
	if err != nil {
		return nil, err
	}
	if _, err := parseGlobs(args); err != nil {
		return nil, d.WrapErr(err)
	}
	return args, nil
}

// unmarshalSwitch reads whether an option is on or off.
func unmarshalSwitch(d *caddyfile.Dispenser) (bool, error) {
	var value string
	if !d.AllArgs(&value) {
		return false, d.ArgErr()
	}
	if value != "on" && value != "off" {
		return false, d.Errf("must be on or off, not %q", value)
	}
	return value == "on", nil
}
