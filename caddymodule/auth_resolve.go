package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/glob"
)

// What is used where nothing is configured.
const (
	defaultUsernameClaim  = "preferred_username"
	defaultGroupsClaim    = "groups"
	defaultRefresh        = 15 * time.Minute
	defaultKeyLifetime    = 90 * 24 * time.Hour
	defaultKeyMaxLifetime = 365 * 24 * time.Hour
	defaultRotationGrace  = 24 * time.Hour
)

var defaultScopes = []string{"openid", "email", "profile"}

// ownPaths are those that no callback can have, nor anything below them, because the
// registry or its pages have them.
var ownPaths = []string{
	"/v2", "/auth/token", "/auth/apikey", "/zot/auth/apikey", "/auth/login", "/auth/logout", "/auth/session",
	"/login", "/user/apikey", "/repos", "/repo", "/admin", "/livez", "/readyz",
}

var (
	errIssuerIsNeeded   = errors.New("issuer is needed")
	errClientIsNeeded   = errors.New("client_id is needed")
	errAudienceIsNeeded = errors.New("audience is needed")
	errMatchIsNeeded    = errors.New("at least one match is needed: without one, everybody's jobs at this issuer would be let in")
	errNoOpenID         = errors.New("openid must be among them")
	errKeyLifetime      = errors.New("lifetime must not be over max_lifetime, which is 365d unless given")
)

// resolve checks the options and returns them as they are used, with placeholders
// replaced. Errors name the option.
func (a *Auth) resolve() (o authOptions, err error) {
	if o.providers, err = a.resolveProviders(); err != nil {
		return o, err
	}
	if o.jobs, err = a.resolveJobs(); err != nil {
		return o, err
	}
	if o.keys, err = a.APIKeys.resolve(); err != nil {
		return o, fmt.Errorf("api_keys: %w", err)
	}
	if o.policies, err = resolvePolicies(a.Policies); err != nil {
		return o, err
	}
	for _, subject := range a.Admins {
		admin, err := subject.resolveAdmin()
		if err != nil {
			return o, fmt.Errorf("admins: %w", err)
		}
		o.admins = append(o.admins, admin)
	}
	if err := replaceOptions(textOption{"public_url", &o.publicURL, a.PublicURL, checkPublicURL}); err != nil {
		return o, err
	}
	o.publicURL = publicOrigin(o.publicURL)
	return o, nil
}

// textOption is a value that may have placeholders, what it becomes without them, and what
// it must be then if it is given.
type textOption struct {
	name     string
	replaced *string
	value    string
	check    func(string) error
}

// replaceOptions sets options to their values with placeholders replaced.
func replaceOptions(options ...textOption) error {
	for _, o := range options {
		if o.value == "" {
			continue
		}
		replaced, err := replace(o.value)
		if err == nil && o.check != nil {
			err = o.check(replaced)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		*o.replaced = replaced
	}
	return nil
}

// names returns what providers and workload identities are called.
func (a *Auth) names() []string {
	var names []string
	for i := range a.OIDC {
		names = append(names, a.OIDC[i].Name)
	}
	for i := range a.WorkloadIdentities {
		names = append(names, a.WorkloadIdentities[i].Name)
	}
	return names
}

// checkAuthName reports why a provider or workload identity cannot be called so. It is part
// of paths, and of what jobs are called.
func checkAuthName(name string, others []string) error {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return fmt.Errorf("name %q must be of lower-case letters, digits, - and _", name)
	}
	if slices.Contains(others, name) {
		return fmt.Errorf("name %s is given twice", name)
	}
	return nil
}

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

func (a *Auth) resolveJobs() ([]jobOptions, error) {
	var jobs []jobOptions
	names := a.names()
	for i := range a.WorkloadIdentities {
		w := &a.WorkloadIdentities[i]
		if err := checkAuthName(w.Name, names[:len(a.OIDC)+i]); err != nil {
			return nil, fmt.Errorf("workload_identity: %w", err)
		}
		resolved, err := w.resolve()
		if err != nil {
			return nil, fmt.Errorf("workload_identity %s: %w", w.Name, err)
		}
		jobs = append(jobs, resolved)
	}
	return jobs, nil
}

func (w *WorkloadIdentity) resolve() (o jobOptions, err error) {
	if err := w.checkNeeded(); err != nil {
		return o, err
	}
	o = jobOptions{name: w.Name, user: w.User, groups: w.Groups}
	if err := replaceOptions(
		textOption{"issuer", &o.issuer, w.Issuer, checkAuthURL},
		textOption{"audience", &o.audience, w.Audience, nil},
		textOption{"jwks_url", &o.jwksURL, w.JWKSURL, checkAuthURL},
	); err != nil {
		return o, err
	}
	if o.caFile, err = resolveOptionalPath(w.CAFile); err != nil {
		return o, fmt.Errorf("ca_file: %w", err)
	}
	for i := range w.Match {
		match, err := w.Match[i].resolve(w.Match[:i])
		if err != nil {
			return o, fmt.Errorf("match %s: %w", w.Match[i].Claim, err)
		}
		o.match = append(o.match, match)
	}
	if o.user == "" {
		o.user = w.Name + ":{claim.sub}"
	}
	if err := checkTemplate(o.user); err != nil {
		return o, fmt.Errorf("user: %w", err)
	}
	for _, group := range o.groups {
		if err := checkTemplate(group); err != nil {
			return o, fmt.Errorf("groups: %w", err)
		}
	}
	return o, nil
}

func (w *WorkloadIdentity) checkNeeded() error {
	switch {
	case w.Issuer == "":
		return errIssuerIsNeeded
	case w.Audience == "":
		return errAudienceIsNeeded
	case len(w.Match) == 0:
		return errMatchIsNeeded
	}
	return nil
}

func (m *ClaimMatch) resolve(above []ClaimMatch) (claimMatch, error) {
	if m.Claim == "" || hasPlaceholder(m.Claim) {
		return claimMatch{}, fmt.Errorf("bad claim %q: it must have a name, without placeholders", m.Claim)
	}
	if slices.ContainsFunc(above, func(other ClaimMatch) bool { return other.Claim == m.Claim }) {
		return claimMatch{}, fmt.Errorf("claim %s is given twice", m.Claim)
	}
	if len(m.Globs) == 0 {
		return claimMatch{}, errNoGlob
	}
	for _, glob := range m.Globs {
		if caddy.NewReplacer().ReplaceKnown(glob, "") != glob {
			return claimMatch{}, fmt.Errorf("bad glob %q: globs have no placeholders", glob)
		}
	}
	globs, err := glob.ParseText(m.Globs)
	return claimMatch{m.Claim, globs}, err
}

// checkTemplate reports why text cannot be filled in with a token's claims. Other
// placeholders than those are refused: what they stood for would be part of a name that
// policies know.
func checkTemplate(text string) error {
	if text == "" {
		return errors.New("bad template: it is empty")
	}
	for rest := text; rest != ""; {
		literal, after, open := strings.Cut(rest, "{")
		placeholder, behind, closed := strings.Cut(after, "}")
		claim, isClaim := strings.CutPrefix(placeholder, "claim.")
		if strings.Contains(literal, "}") || open && (!closed || !isClaim || claim == "" || strings.Contains(claim, "{")) {
			return fmt.Errorf("bad template %q: braces must have a claim, such as {claim.sub}", text)
		}
		rest = behind
	}
	return nil
}

func (k *APIKeys) resolve() (o keyOptions, err error) {
	if o.maxLifetime, err = k.MaxLifetime.or(defaultKeyMaxLifetime); err != nil {
		return o, fmt.Errorf("max_lifetime: %w", err)
	}
	if o.lifetime, err = k.Lifetime.or(min(defaultKeyLifetime, o.maxLifetime)); err != nil {
		return o, fmt.Errorf("lifetime: %w", err)
	}
	if o.lifetime > o.maxLifetime {
		return o, errKeyLifetime
	}
	if o.grace, err = k.RotationGrace.or(defaultRotationGrace); err != nil {
		return o, fmt.Errorf("rotation_grace: %w", err)
	}
	return o, nil
}

// or returns the duration, with placeholders replaced, or another if none is given.
func (d Duration) or(other time.Duration) (time.Duration, error) {
	if d == "" {
		return other, nil
	}
	return d.parse()
}

// checkAuthURL reports why text is not an issuer's URL, or where its keys are.
func checkAuthURL(text string) error {
	if u, err := url.Parse(text); err == nil && u.User != nil {
		return errors.New("it must have no user or password")
	}
	return checkURL(text)
}

// checkPublicURL reports why text is not a site's scheme and host.
func checkPublicURL(text string) error {
	if err := checkAuthURL(text); err != nil {
		return err
	}
	if u, err := url.Parse(text); err != nil || u.Path != "" && u.Path != "/" {
		return errors.New("it must have no path")
	}
	return nil
}

// publicOrigin returns the scheme and host of a public URL as browsers write them, so that they
// can be compared with those of requests.
func publicOrigin(text string) string {
	u, err := url.Parse(text)
	if err != nil || text == "" {
		return ""
	}
	host := strings.ToLower(u.Host)
	switch port := u.Port(); {
	case port == "", u.Scheme == "https" && port == "443", u.Scheme == "http" && port == "80":
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}
