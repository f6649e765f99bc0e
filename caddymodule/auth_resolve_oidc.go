package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/eblume/caddy-registry/authn"
)

func (a *Auth) resolveProviders() ([]oidcOptions, error) {
	var providers []oidcOptions
	names := a.names()
	for i := range a.OIDC {
		p := &a.OIDC[i]
		if err := checkAuthName(p.Name, names[:i]); err != nil {
			return nil, fmt.Errorf("oidc: %w", err)
		}
		resolved, err := p.resolve()
		if err == nil {
			err = resolved.checkBeside(providers)
		}
		if err != nil {
			return nil, fmt.Errorf("oidc %s: %w", p.Name, err)
		}
		providers = append(providers, resolved)
	}
	return providers, nil
}

func (p *OIDC) resolve() (o oidcOptions, err error) {
	if err := p.checkNeeded(); err != nil {
		return o, err
	}
	o = p.withDefaults()
	options := []textOption{
		{"issuer", &o.issuer, o.issuer, checkAuthURL},
		{"client_id", &o.clientID, o.clientID, nil},
		{"client_secret", &o.clientSecret, o.clientSecret, nil},
		{"username_claim", &o.usernameClaim, o.usernameClaim, nil},
		{"groups_claim", &o.groupsClaim, o.groupsClaim, nil},
		{"callback_path", &o.callbackPath, o.callbackPath, checkCallbackPath},
		{"prefix", &o.prefix, o.prefix, checkPrefix},
	}
	for i := range o.scopes {
		options = append(options, textOption{"scopes", &o.scopes[i], o.scopes[i], nil})
	}
	if err := replaceOptions(options...); err != nil {
		return o, err
	}
	if err := checkScopes(o.scopes); err != nil {
		return o, fmt.Errorf("scopes: %w", err)
	}
	if o.refresh, err = p.Refresh.or(defaultRefresh); err != nil {
		return o, fmt.Errorf("refresh: %w", err)
	}
	return o, nil
}

func (p *OIDC) checkNeeded() error {
	switch {
	case p.Issuer == "":
		return errIssuerIsNeeded
	case p.ClientID == "":
		return errClientIsNeeded
	}
	return nil
}

// withDefaults returns the options that are texts, with their placeholders.
func (p *OIDC) withDefaults() oidcOptions {
	o := oidcOptions{
		name:          p.Name,
		issuer:        p.Issuer,
		clientID:      p.ClientID,
		clientSecret:  p.ClientSecret,
		scopes:        slices.Clone(p.Scopes),
		usernameClaim: p.UsernameClaim,
		groupsClaim:   p.GroupsClaim,
		callbackPath:  p.CallbackPath,
		prefix:        p.Prefix,
	}
	if len(o.scopes) == 0 {
		o.scopes = slices.Clone(defaultScopes)
	}
	if o.usernameClaim == "" {
		o.usernameClaim = defaultUsernameClaim
	}
	if o.groupsClaim == "" {
		o.groupsClaim = defaultGroupsClaim
	}
	if o.callbackPath == "" {
		o.callbackPath = "/auth/callback/" + o.name
	}
	return o
}

// checkBeside reports why a provider cannot be told from those above it. It may have
// placeholders: what is equal or begins equally with them does without them.
func (o *oidcOptions) checkBeside(above []oidcOptions) error {
	if len(above) > 0 && o.prefix == "" {
		return fmt.Errorf("prefix is needed, since oidc %s is there too", above[0].name)
	}
	for i := range above {
		other := &above[i]
		switch {
		case strings.TrimSuffix(o.issuer, "/") == strings.TrimSuffix(other.issuer, "/"):
			return fmt.Errorf("issuer %s is that of oidc %s already", o.issuer, other.name)
		case o.callbackPath == other.callbackPath:
			return fmt.Errorf("callback_path %s is that of oidc %s already", o.callbackPath, other.name)
		case other.prefix != "" && (strings.HasPrefix(o.prefix, other.prefix) || strings.HasPrefix(other.prefix, o.prefix)):
			return fmt.Errorf("prefix %s and that of oidc %s, %s, begin equally: names could be taken for the other's", o.prefix, other.name, other.prefix)
		}
	}
	return nil
}

// prefixesBut returns the prefixes of the providers that have another.
func (o *authOptions) prefixesBut(prefix string) []string {
	var others []string
	for i := range o.providers {
		if other := o.providers[i].prefix; other != "" && other != prefix {
			others = append(others, other)
		}
	}
	return others
}

// checkPrefix reports why text cannot be put before names.
func checkPrefix(text string) error { return authn.CheckUser(text + "name") }

func checkScopes(scopes []string) error {
	for _, scope := range scopes {
		if scope == "" || strings.ContainsFunc(scope, unicode.IsSpace) {
			return fmt.Errorf("scope %q must be one word", scope)
		}
	}
	if !slices.Contains(scopes, "openid") {
		return errNoOpenID
	}
	return nil
}

// checkCallbackPath reports why text cannot be where a provider sends people back: no
// two ways of writing it are taken for the same.
func checkCallbackPath(text string) error {
	u, err := url.Parse(text)
	switch {
	case !strings.HasPrefix(text, "/"):
		return errors.New("it must begin with a slash")
	case err != nil || u.Path != text || u.EscapedPath() != text:
		return errors.New("it must have no query, no fragment and nothing that is escaped in URLs")
	case text == "/" || path.Clean(text) != strings.TrimSuffix(text, "/"):
		return errors.New("it must name something, without empty components and dots")
	}
	for _, own := range ownPaths {
		if text == own || strings.HasPrefix(text, own+"/") {
			return fmt.Errorf("%s is the registry's own", own)
		}
	}
	return nil
}
