package caddymodule

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile reads the block of gc. Syntax:
//
//	gc {
//		interval <duration>
//		delay    <duration>
//		untagged <duration>
//	}
func (g *GC) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return unmarshalOptions(d, func(option string) error {
		switch option {
		case "interval":
			return g.Interval.UnmarshalCaddyfile(d)
		case "delay":
			return g.Delay.UnmarshalCaddyfile(d)
		case "untagged":
			return g.Untagged.UnmarshalCaddyfile(d)
		}
		return d.Errf("unrecognized option %q", option)
	})
}

// UnmarshalCaddyfile reads the globs and the block of retention. Syntax:
//
//	retention <globs...> {
//		keep_tags          <globs...>
//		keep_last          <count>
//		keep_pulled_within <duration>
//	}
func (r *Retention) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	line := *d
	if r.Repositories, err = unmarshalGlobs(d); err != nil {
		return err
	}
	err = unmarshalOptions(d, func(option string) (err error) {
		switch option {
		case "keep_tags":
			r.KeepTags, err = unmarshalGlobs(d)
		case "keep_last":
			var text string
			if err = unmarshalArg(d, &text, nil); err != nil {
				return err
			}
			if r.KeepLast, err = strconv.Atoi(text); err != nil || r.KeepLast < 1 {
				err = d.Errf("keep_last must be a number of tags, at least 1, not %q", text)
			}
		case "keep_pulled_within":
			err = r.KeepPulledWithin.UnmarshalCaddyfile(d)
		default:
			err = d.Errf("unrecognized option %q", option)
		}
		return err
	})
	if err == nil {
		if err = r.check(); err != nil {
			err = line.WrapErr(err)
		}
	}
	return err
}

// UnmarshalCaddyfile reads a quota. Syntax:
//
//	quota <globs...> <size>
func (q *Quota) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.ArgErr()
	}
	last := len(args) - 1
	q.Repositories, q.Size = args[:last], Size(args[last])
	if _, err := parseGlobs(q.Repositories); err != nil {
		return d.WrapErr(err)
	}
	if err := checkUnlessPlaceholder(args[last], checkSize); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// UnmarshalCaddyfile reads the block of scrub, which may be missing. Syntax:
//
//	scrub {
//		interval <duration>
//		rate     <size> # of what is read in a second
//	}
func (s *Scrub) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return unmarshalOptions(d, func(option string) error {
		switch option {
		case "interval":
			return s.Interval.UnmarshalCaddyfile(d)
		case "rate":
			return unmarshalArg(d, (*string)(&s.Rate), checkSize)
		}
		return d.Errf("unrecognized option %q", option)
	})
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*GC)(nil)
	_ caddyfile.Unmarshaler = (*Retention)(nil)
	_ caddyfile.Unmarshaler = (*Quota)(nil)
	_ caddyfile.Unmarshaler = (*Scrub)(nil)
)
