package caddymodule

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// Duration is a duration as it is configured: `90s`, `24h` or `7d`, or a placeholder
// for one. In JSON a number is nanoseconds, as in Caddy's own durations.
type Duration string

// UnmarshalJSON implements [json.Unmarshaler].
func (d *Duration) UnmarshalJSON(b []byte) error {
	var nanoseconds int64
	if json.Unmarshal(b, &nanoseconds) == nil {
		*d = Duration(time.Duration(nanoseconds).String())
		return nil
	}
	return json.Unmarshal(b, (*string)(d))
}

// UnmarshalCaddyfile reads an option's one argument.
func (d *Duration) UnmarshalCaddyfile(dispenser *caddyfile.Dispenser) error {
	if !dispenser.AllArgs((*string)(d)) {
		return dispenser.ArgErr()
	}
	// What a placeholder stands for is known when the server starts.
	if strings.Contains(string(*d), "{") {
		return nil
	}
	if _, err := d.parse(); err != nil {
		return dispenser.WrapErr(err)
	}
	return nil
}

// parse returns the duration, which must be positive, with placeholders replaced.
func (d Duration) parse() (time.Duration, error) {
	text, err := replace(string(d))
	if err != nil {
		return 0, err
	}
	duration, err := caddy.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("invalid duration %q: %w", text, err)
	}
	if duration <= 0 {
		return 0, fmt.Errorf("duration %s must be positive", text)
	}
	return duration, nil
}

// Size is a number of bytes as it is configured, such as `20GiB`, or a placeholder for one.
type Size string

// parse returns the size in bytes, with placeholders replaced.
func (s Size) parse() (int64, error) {
	text, err := replace(string(s))
	if err != nil {
		return 0, err
	}
	// 5 would be 5 bytes, which nobody means.
	if text != "0" && strings.Trim(text, "0123456789.,") == "" {
		return 0, fmt.Errorf("%q needs a unit such as GiB", text)
	}
	size, err := humanize.ParseBytes(text)
	if err != nil || size > math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size such as 20GiB", text)
	}
	return int64(size), nil
}

// or is parse for an option that need not be given.
func (s Size) or(fallback int64) (int64, error) {
	if s == "" {
		return fallback, nil
	}
	return s.parse()
}

// checkSize reports why a text is no size.
func checkSize(text string) error {
	_, err := Size(text).parse()
	return err
}

// replace returns an option's value with placeholders replaced; one that is unknown, or
// stands for nothing, is an error.
func replace(value string) (string, error) {
	return caddy.NewReplacer().ReplaceOrErr(value, true, true)
}

// resolvePath returns the absolute path that a configured one means.
func resolvePath(path string) (string, error) {
	resolved, err := replace(path)
	if err != nil {
		return "", fmt.Errorf("path %q: %w", path, err)
	}
	return filepath.Abs(resolved)
}

// noMore refuses arguments, or a block, that nothing reads.
func noMore(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(d.Nesting()) {
		return d.Errf("unrecognized option %q", d.Val())
	}
	return nil
}

// Interface guards
var (
	_ json.Unmarshaler      = (*Duration)(nil)
	_ caddyfile.Unmarshaler = (*Duration)(nil)
)
