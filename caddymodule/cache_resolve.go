package caddymodule

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/eblume/caddy-registry/upstream"
)

// What is used where nothing is configured.
const (
	defaultMinFree      MinFree = "5%"
	defaultNotFoundTTL          = 30 * time.Second
	defaultDockerConfig         = "~/.docker/config.json"
)

// defaultURL returns where an upstream is if it is not configured.
func defaultURL(name string) string {
	if name == "docker.io" {
		return "https://registry-1.docker.io"
	}
	return "https://" + name
}

var (
	errNoUpstream    = errors.New("at least one upstream is needed")
	errAllowIsNeeded = errors.New("allow must be given where credentials are, as ** if all is meant: who may read here reads what they open")
	errCredentials   = errors.New("both the user and the password are needed")
	errTwoAccounts   = errors.New("credentials and docker_config cannot both be given")
	errFreshTwice    = errors.New("fresh without tags is given twice")
)

// resolve checks the options and returns them as they are used, with placeholders
// replaced. Errors name the option.
func (c *Cache) resolve() (cacheOptions, error) {
	if len(c.Upstreams) == 0 {
		return cacheOptions{}, errNoUpstream
	}
	o := cacheOptions{prefetch: c.Prefetch, names: upstream.Names{Upstreams: c.upstreamNames(), Default: c.Default}}
	for _, host := range c.LocalHosts {
		replaced, err := replace(host)
		if err != nil {
			return cacheOptions{}, fmt.Errorf("local_hosts: %w", err)
		}
		o.names.Local = append(o.names.Local, replaced)
	}
	var err error
	if o.names.Private, err = parseGlobs(c.Private); err != nil {
		return cacheOptions{}, fmt.Errorf("private: %w", err)
	}
	if err := o.names.Check(); err != nil {
		return cacheOptions{}, err
	}
	for _, u := range c.Upstreams {
		resolved, err := u.resolve()
		if err != nil {
			return cacheOptions{}, fmt.Errorf("upstream %s: %w", u.Name, err)
		}
		o.upstreams = append(o.upstreams, resolved)
	}
	minFree := c.MinFree
	if minFree == "" {
		minFree = defaultMinFree
	}
	if o.minFree, err = minFree.parse(); err != nil {
		return cacheOptions{}, fmt.Errorf("min_free: %w", err)
	}
	if o.maxSize, err = c.MaxSize.or(0); err != nil {
		return cacheOptions{}, fmt.Errorf("max_size: %w", err)
	}
	if o.keep, err = parseGlobs(c.Keep); err != nil {
		return cacheOptions{}, fmt.Errorf("keep: %w", err)
	}
	if o.maxIdle, err = c.MaxIdle.or(0); err != nil {
		return cacheOptions{}, fmt.Errorf("max_idle: %w", err)
	}
	return o, nil
}

func (c *Cache) upstreamNames() []string {
	names := make([]string, 0, len(c.Upstreams)+1)
	for _, u := range c.Upstreams {
		names = append(names, u.Name)
	}
	return names
}

func (u *Upstream) resolve() (o upstreamOptions, err error) {
	o.name = u.Name
	if err := u.checkAccount(); err != nil {
		return o, err
	}
	if o.urls, err = u.resolveURLs(); err != nil {
		return o, fmt.Errorf("url %w", err)
	}
	if o.username, err = replace(u.Username); err != nil {
		return o, fmt.Errorf("credentials: %w", err)
	}
	if o.password, err = replace(u.Password); err != nil {
		return o, fmt.Errorf("credentials: %w", err)
	}
	if o.dockerConfig, err = resolveOptionalPath(u.DockerConfig); err != nil {
		return o, fmt.Errorf("docker_config: %w", err)
	}
	if o.caFile, err = resolveOptionalPath(u.CAFile); err != nil {
		return o, fmt.Errorf("ca_file: %w", err)
	}
	if o.fresh, err = resolveFresh(u.Fresh); err != nil {
		return o, fmt.Errorf("fresh: %w", err)
	}
	if u.StaleIfError != "" {
		if o.staleIfError, _, err = u.StaleIfError.parseOrForever(); err != nil {
			return o, fmt.Errorf("stale_if_error: %w", err)
		}
	}
	o.notFoundTTL = defaultNotFoundTTL
	if u.NotFoundTTL != "" {
		if o.notFoundTTL, err = u.NotFoundTTL.parse(); err != nil {
			return o, fmt.Errorf("not_found_ttl: %w", err)
		}
	}
	if o.access.Allow, err = parseGlobs(u.Allow); err != nil {
		return o, fmt.Errorf("allow: %w", err)
	}
	if o.access.Deny, err = parseGlobs(u.Deny); err != nil {
		return o, fmt.Errorf("deny: %w", err)
	}
	return o, nil
}

// checkAccount checks the options that say as whom the upstream is asked.
func (u *Upstream) checkAccount() error {
	credentials := u.Username != "" || u.Password != ""
	switch {
	case credentials && (u.Username == "" || u.Password == ""):
		return errCredentials
	case credentials && u.DockerConfig != "":
		return errTwoAccounts
	case (credentials || u.DockerConfig != "") && len(u.Allow) == 0:
		return errAllowIsNeeded
	}
	return nil
}

func (u *Upstream) resolveURLs() ([]string, error) {
	if len(u.URLs) == 0 {
		return []string{defaultURL(u.Name)}, nil
	}
	urls := make([]string, 0, len(u.URLs))
	for _, text := range u.URLs {
		replaced, err := replace(text)
		if err == nil {
			err = checkURL(replaced)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		urls = append(urls, strings.TrimRight(replaced, "/"))
	}
	return urls, nil
}

// resolveOptionalPath returns the absolute path that one means which may begin with ~,
// and nothing if it is empty.
func resolveOptionalPath(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		path = filepath.Join(caddy.HomeDir(), rest)
	}
	return resolvePath(path)
}

func resolveFresh(rules []Fresh) (upstream.Freshness, error) {
	var fresh upstream.Freshness
	rest := false
	for _, rule := range rules {
		tags, err := parseGlobs(rule.Tags)
		if err != nil {
			return nil, err
		}
		if len(tags) == 0 && rest {
			return nil, errFreshTwice
		}
		rest = rest || len(tags) == 0
		duration, forever, err := rule.For.parseOrForever()
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, upstream.FreshRule{Tags: tags, For: duration, Forever: forever})
	}
	return fresh, nil
}
