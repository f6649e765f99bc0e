package caddymodule

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/eblume/caddy-registry/authz"
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. There may be several
// lines of admins, and of each kind of block but api_keys. Syntax:
//
//	registry_auth [<matcher>] {
//		oidc <name> {
//			issuer         <url>
//			client_id      <id>
//			client_secret  <secret>
//			scopes         <scopes...>      # default: openid email profile
//			username_claim <claim>          # default: preferred_username
//			groups_claim   <claim>          # default: groups
//			callback_path  <path>           # default: /auth/callback/<name>
//			refresh        <duration>
//			prefix         <text>           # needed for all but the first
//		}
//		workload_identity <name> {
//			issuer   <url>
//			audience <text>
//			match    <claim> <globs...>     # at least one, all must match
//			user     <template>             # default: <name>:{claim.sub}
//			groups   <templates...>
//			jwks_url <url>
//			ca_file  <path>
//		}
//		api_keys {
//			lifetime       <duration>
//			max_lifetime   <duration>
//			rotation_grace <duration>
//		}
//		policy <globs...> {                 # the first that names a repository decides
//			anonymous     <actions...> [tags <globs...>]
//			authenticated <actions...> [tags <globs...>]
//			user <name>   <actions...> [tags <globs...>]
//			group <name>  <actions...> [tags <globs...>]
//		}
//		admins     authenticated | user <name> | group <name>
//		public_url <url>
//	}
func (a *Auth) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return unmarshalOptions(d, func(option string) error {
		switch option {
		case "oidc":
			return a.unmarshalOIDC(d)
		case "workload_identity":
			return a.unmarshalWorkloadIdentity(d)
		case "api_keys":
			return a.APIKeys.UnmarshalCaddyfile(d)
		case "policy":
			return a.unmarshalPolicy(d)
		case "admins":
			return a.unmarshalAdmin(d)
		case "public_url":
			return unmarshalArg(d, &a.PublicURL, checkPublicURL)
		}
		return d.Errf("unrecognized option %q", option)
	}, "oidc", "workload_identity", "policy", "admins")
}

// unmarshalAuthName reads the name of a provider or workload identity.
func (a *Auth) unmarshalAuthName(d *caddyfile.Dispenser) (name string, err error) {
	if !d.AllArgs(&name) {
		return "", d.ArgErr()
	}
	if err := checkAuthName(name, a.names()); err != nil {
		return "", d.WrapErr(err)
	}
	return name, nil
}

// unmarshalOIDC reads a provider and its block.
func (a *Auth) unmarshalOIDC(d *caddyfile.Dispenser) (err error) {
	var p OIDC
	line := *d
	if p.Name, err = a.unmarshalAuthName(d); err != nil {
		return err
	}
	if err := unmarshalOptions(d, func(string) error { return p.unmarshalOption(d) }); err != nil {
		return err
	}
	if err := p.checkNeeded(); err != nil {
		return line.WrapErr(err)
	}
	var above []oidcOptions
	for i := range a.OIDC {
		above = append(above, a.OIDC[i].withDefaults())
	}
	options := p.withDefaults()
	if err := options.checkBeside(above); err != nil {
		return line.WrapErr(err)
	}
	a.OIDC = append(a.OIDC, p)
	return nil
}

// unmarshalOption reads one line of a provider's block.
func (p *OIDC) unmarshalOption(d *caddyfile.Dispenser) (err error) {
	switch option := d.Val(); option {
	case "issuer":
		err = unmarshalArg(d, &p.Issuer, checkAuthURL)
	case "client_id":
		err = unmarshalArg(d, &p.ClientID, nil)
	case "client_secret":
		err = unmarshalArg(d, &p.ClientSecret, nil)
	case "scopes":
		if p.Scopes, err = unmarshalArgs(d); err != nil {
			return err
		}
		if slices.ContainsFunc(p.Scopes, hasPlaceholder) {
			return nil
		}
		if err := checkScopes(p.Scopes); err != nil {
			return d.WrapErr(err)
		}
	case "username_claim":
		err = unmarshalArg(d, &p.UsernameClaim, nil)
	case "groups_claim":
		err = unmarshalArg(d, &p.GroupsClaim, nil)
	case "callback_path":
		err = unmarshalArg(d, &p.CallbackPath, checkCallbackPath)
	case "refresh":
		err = p.Refresh.UnmarshalCaddyfile(d)
	case "prefix":
		err = unmarshalArg(d, &p.Prefix, checkPrefix)
	default:
		return d.Errf("unrecognized option %q", option)
	}
	return err
}

// unmarshalWorkloadIdentity reads a workload identity and its block.
func (a *Auth) unmarshalWorkloadIdentity(d *caddyfile.Dispenser) (err error) {
	var w WorkloadIdentity
	line := *d
	if w.Name, err = a.unmarshalAuthName(d); err != nil {
		return err
	}
	if err := unmarshalOptions(d, func(string) error { return w.unmarshalOption(d) }, "match"); err != nil {
		return err
	}
	if err := w.checkNeeded(); err != nil {
		return line.WrapErr(err)
	}
	a.WorkloadIdentities = append(a.WorkloadIdentities, w)
	return nil
}

// unmarshalOption reads one line of a workload identity's block.
func (w *WorkloadIdentity) unmarshalOption(d *caddyfile.Dispenser) (err error) {
	switch option := d.Val(); option {
	case "issuer":
		err = unmarshalArg(d, &w.Issuer, checkAuthURL)
	case "audience":
		err = unmarshalArg(d, &w.Audience, nil)
	case "match":
		err = w.unmarshalMatch(d)
	case "user":
		if err := unmarshalArg(d, &w.User, nil); err != nil {
			return err
		}
		if err := checkTemplate(w.User); err != nil {
			return d.WrapErr(err)
		}
	case "groups":
		if w.Groups, err = unmarshalArgs(d); err != nil {
			return err
		}
		for _, group := range w.Groups {
			if err := checkTemplate(group); err != nil {
				return d.WrapErr(err)
			}
		}
	case "jwks_url":
		err = unmarshalArg(d, &w.JWKSURL, checkAuthURL)
	case "ca_file":
		err = unmarshalArg(d, &w.CAFile, nil)
	default:
		return d.Errf("unrecognized option %q", option)
	}
	return err
}

func (w *WorkloadIdentity) unmarshalMatch(d *caddyfile.Dispenser) error {
	args, err := unmarshalArgs(d)
	if err != nil {
		return err
	}
	match := ClaimMatch{Claim: args[0], Globs: args[1:]}
	if _, err := match.resolve(w.Match); err != nil {
		return d.WrapErr(err)
	}
	w.Match = append(w.Match, match)
	return nil
}

// UnmarshalCaddyfile reads the block of api_keys.
func (k *APIKeys) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	line := *d
	if d.NextArg() {
		return d.ArgErr()
	}
	err := unmarshalOptions(d, func(option string) error {
		switch option {
		case "lifetime":
			return k.Lifetime.UnmarshalCaddyfile(d)
		case "max_lifetime":
			return k.MaxLifetime.UnmarshalCaddyfile(d)
		case "rotation_grace":
			return k.RotationGrace.UnmarshalCaddyfile(d)
		}
		return d.Errf("unrecognized option %q", option)
	})
	if err != nil {
		return err
	}
	if hasPlaceholder(string(k.Lifetime + k.MaxLifetime + k.RotationGrace)) {
		return nil
	}
	if _, err := k.resolve(); err != nil {
		return line.WrapErr(err)
	}
	return nil
}

// unmarshalPolicy reads a policy and its block.
func (a *Auth) unmarshalPolicy(d *caddyfile.Dispenser) (err error) {
	var p Policy
	line := *d
	if p.Repositories, err = unmarshalGlobs(d); err != nil {
		return err
	}
	if err := p.checkReach(a.Policies); err != nil {
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var rule PolicyRule
		if err := rule.UnmarshalCaddyfile(d); err != nil {
			return err
		}
		p.Rules = append(p.Rules, rule)
	}
	if len(p.Rules) == 0 {
		return line.WrapErr(errRuleIsNeeded)
	}
	a.Policies = append(a.Policies, p)
	return nil
}

// UnmarshalCaddyfile reads a line of a policy.
func (r *PolicyRule) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	r.Actions = r.Subject.take(append([]string{d.Val()}, d.RemainingArgs()...))
	if i := slices.Index(r.Actions, "tags"); i >= 0 {
		r.Actions, r.Tags = r.Actions[:i], r.Actions[i+1:]
	}
	if _, err := r.resolve(); err != nil {
		return d.WrapErr(err)
	}
	// A word behind tags that is no tag's is one too many, or in the wrong place.
	for _, tag := range r.Tags {
		if _, err := authz.ParseAction(tag); err == nil || tag == "tags" {
			return d.Errf("%s is behind tags, where only globs of tags are", tag)
		}
	}
	return nil
}

// take reads the subject from a line's words, at least one, and returns the others.
func (s *Subject) take(words []string) []string {
	s.Kind = words[0]
	if words = words[1:]; len(words) > 0 && (s.Kind == string(authz.User) || s.Kind == string(authz.Group)) {
		s.Name, words = words[0], words[1:]
	}
	return words
}

// unmarshalAdmin reads a line of admins.
func (a *Auth) unmarshalAdmin(d *caddyfile.Dispenser) error {
	args, err := unmarshalArgs(d)
	if err != nil {
		return err
	}
	var admin Subject
	rest := admin.take(args)
	if _, err := admin.resolveAdmin(); err != nil {
		return d.WrapErr(err)
	}
	if len(rest) > 0 {
		return d.ArgErr()
	}
	a.Admins = append(a.Admins, admin)
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Auth)(nil)
	_ caddyfile.Unmarshaler = (*APIKeys)(nil)
	_ caddyfile.Unmarshaler = (*PolicyRule)(nil)
)
