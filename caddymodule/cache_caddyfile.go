package caddymodule

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/eblume/caddy-registry/upstream"
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. There may be several
// upstreams, and several url and fresh lines in each. Syntax:
//
//	registry_cache [<matcher>] {
//		upstream <name> {
//			url            <url>                          # any number, tried in order
//			credentials    <user> <password>
//			docker_config  [<path>]                       # default: ~/.docker/config.json
//			fresh          [<tags...>] <duration>|forever # any number
//			stale_if_error <duration>|forever
//			not_found_ttl  <duration>
//			allow          <globs...>
//			deny           <globs...>
//			ca_file        <path>
//		}
//		default     <upstream>
//		private     <globs...>
//		local_hosts <hosts...>
//		max_size    <size>
//		min_free    <percentage>|<size>
//		keep        <globs...>
//		max_idle    <duration>
//		prefetch    on|off
//	}
func (c *Cache) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	directive := *d
	lines := make(map[string]caddyfile.Dispenser) // where options are
	err := unmarshalOptions(d, func(option string) (err error) {
		lines[option] = *d
		switch option {
		case "upstream":
			err = c.unmarshalUpstream(d)
		case "default":
			err = unmarshalArg(d, &c.Default, nil)
		case "private":
			c.Private, err = unmarshalGlobs(d)
		case "local_hosts":
			c.LocalHosts, err = unmarshalArgs(d)
		case "min_free":
			err = unmarshalArg(d, (*string)(&c.MinFree), func(text string) error {
				_, err := MinFree(text).parse()
				return err
			})
		case "max_size":
			err = unmarshalArg(d, (*string)(&c.MaxSize), checkSize)
		case "keep":
			c.Keep, err = unmarshalGlobs(d)
		case "max_idle":
			err = c.MaxIdle.UnmarshalCaddyfile(d)
		case "prefetch":
			c.Prefetch, err = unmarshalSwitch(d)
		default:
			err = d.Errf("unrecognized option %q", option)
		}
		return err
	}, "upstream")
	if err != nil {
		return err
	}
	if len(c.Upstreams) == 0 {
		return directive.WrapErr(errNoUpstream)
	}
	// Options may come before the upstreams that they name, or must not name.
	names := upstream.Names{Upstreams: c.upstreamNames(), Default: c.Default}
	if err := names.Check(); err != nil {
		line := lines["default"]
		return line.WrapErr(err)
	}
	names.Local = slices.DeleteFunc(slices.Clone(c.LocalHosts), hasPlaceholder)
	if err := names.Check(); err != nil {
		line := lines["local_hosts"]
		return line.WrapErr(err)
	}
	return nil
}

// unmarshalUpstream reads an upstream and its block.
func (c *Cache) unmarshalUpstream(d *caddyfile.Dispenser) error {
	u := Upstream{}
	line := *d
	if !d.NextArg() {
		return d.ArgErr()
	}
	u.Name = d.Val()
	names := upstream.Names{Upstreams: append(c.upstreamNames(), u.Name)}
	if err := names.Check(); err != nil {
		return d.WrapErr(err)
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	err := unmarshalOptions(d, func(option string) error {
		if option == "credentials" || option == "docker_config" {
			line = *d
		}
		return u.unmarshalOption(d)
	}, "url", "fresh")
	if err != nil {
		return err
	}
	if err := u.checkAccount(); err != nil {
		return line.WrapErr(err)
	}
	c.Upstreams = append(c.Upstreams, u)
	return nil
}

// unmarshalOption reads one line of an upstream's block.
func (u *Upstream) unmarshalOption(d *caddyfile.Dispenser) (err error) {
	switch option := d.Val(); option {
	case "url":
		var text string
		err = unmarshalArg(d, &text, checkURL)
		u.URLs = append(u.URLs, text)
	case "credentials":
		if !d.AllArgs(&u.Username, &u.Password) {
			return d.ArgErr()
		}
		if u.Username == "" || u.Password == "" {
			return d.WrapErr(errCredentials)
		}
	case "docker_config":
		u.DockerConfig = defaultDockerConfig
		if d.NextArg() {
			u.DockerConfig = d.Val()
		}
		if d.NextArg() {
			return d.ArgErr()
		}
	case "fresh":
		err = u.unmarshalFresh(d)
	case "stale_if_error":
		err = unmarshalArg(d, (*string)(&u.StaleIfError), checkDurationOrForever)
	case "not_found_ttl":
		err = u.NotFoundTTL.UnmarshalCaddyfile(d)
	case "allow":
		u.Allow, err = unmarshalGlobs(d)
	case "deny":
		u.Deny, err = unmarshalGlobs(d)
	case "ca_file":
		err = unmarshalArg(d, &u.CAFile, nil)
	default:
		return d.Errf("unrecognized option %q", option)
	}
	return err
}

func (u *Upstream) unmarshalFresh(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	last := len(args) - 1
	rule := Fresh{For: Duration(args[last])}
	if last > 0 {
		rule.Tags = args[:last]
	}
	if _, err := parseGlobs(rule.Tags); err != nil {
		return d.WrapErr(err)
	}
	if err := checkUnlessPlaceholder(args[last], checkDurationOrForever); err != nil {
		return d.WrapErr(err)
	}
	for _, other := range u.Fresh {
		if len(other.Tags) == 0 && last == 0 {
			return d.WrapErr(errFreshTwice)
		}
	}
	u.Fresh = append(u.Fresh, rule)
	return nil
}

func checkDurationOrForever(text string) error {
	_, _, err := Duration(text).parseOrForever()
	return err
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Cache)(nil)
)
