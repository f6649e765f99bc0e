package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
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
