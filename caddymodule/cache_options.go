package caddymodule

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/upstream"
)

// Cache is a pull-through cache of other registries. What is pulled by their names is
// fetched from them once, kept in the storage of the registry app, and served from there,
// also while they cannot be reached. It answers pulls under /v2/; everything else, pushes
// and what is this registry's own among it, is passed on.
type Cache struct {
	// The registries that are cached, at least one.
	Upstreams []Upstream `json:"upstreams,omitempty"`

	// The upstream of names that begin with none, as clients ask that use this registry
	// as a mirror without saying whose: with `docker.io`, `library/alpine` and `alpine`
	// are `docker.io/library/alpine`. Names that are private are not sent to it: those
	// that `private` matches, and those whose first component is that of a repository
	// that is or was here. Default: none.
	Default string `json:"default,omitempty"`

	// Globs of names that are never sent to the default upstream. `*` stops at a slash,
	// `**` does not.
	Private []string `json:"private,omitempty"`

	// Further names of this registry, with their ports, in the `ns` parameter by which
	// containerd tells whose repository it means. The host that a request names is always
	// one. May have placeholders.
	LocalHosts []string `json:"local_hosts,omitempty"`

	// How much of the disk must stay free, as a percentage or a size such as `20GiB`. With
	// less, blobs that only copies hold leave, least recently pulled first, and if that is
	// not enough, what is fetched is served without being kept. May be a placeholder.
	// Default: `5%`.
	MinFree MinFree `json:"min_free,omitempty"`

	// How many bytes the blobs may have together that only copies hold, those of other
	// sites with this storage among them. What was pulled least recently leaves first, and a
	// blob for which there is no room is served without being kept. What this registry's own
	// repositories hold too does not count. May be a placeholder. Default: no limit.
	MaxSize Size `json:"max_size,omitempty"`

	// Globs of copies, by their full names such as `ghcr.io/org/**`, that are never evicted.
	Keep []string `json:"keep,omitempty"`

	// How long something is kept that is not pulled. Default: for ever.
	MaxIdle Duration `json:"max_idle,omitempty"`

	// Fetch an image's layers as soon as its manifest is fetched, before a client asks
	// for them. Default: false.
	Prefetch bool `json:"prefetch,omitempty"`

	names   upstream.Names
	clients []*upstream.Client
	app     *App
	api     *distribution.Handler
	open    func() error // once; sets the api's registry and the following
	caches  map[string]*upstream.Cache
	room    *upstream.Room
}

// Upstream is a registry that is cached.
type Upstream struct {
	// The registry's host, such as `ghcr.io`, with its port unless that is its scheme's
	// own. Names here begin with it, with `_` for a port's colon: `localhost_5001/app`.
	Name string `json:"name"`

	// Where the registry is, which may be several places that are tried in order. May
	// have placeholders. Default: `https://registry-1.docker.io` for `docker.io`, else
	// `https://` and the name.
	URLs []string `json:"urls,omitempty"`

	// Whom to log in as. May be a placeholder. Default: nobody. Needs `allow`.
	Username string `json:"username,omitempty"`

	// The user's password or access token. May be a placeholder.
	Password string `json:"password,omitempty"`

	// A file as `docker login` writes it, to take the user and password from. A leading
	// `~` is Caddy's home. May have placeholders. Default: none. Needs `allow`.
	DockerConfig string `json:"docker_config,omitempty"`

	// How long tags are served without asking the upstream whether they moved. The first
	// that names a tag decides, and the one without tags for those that none names.
	// Default: 1m.
	Fresh []Fresh `json:"fresh,omitempty"`

	// How long a tag that is no longer fresh is served while the upstream cannot be asked,
	// or `forever`. Default: `forever`.
	StaleIfError Duration `json:"stale_if_error,omitempty"`

	// How long it is remembered that the upstream does not have something. Default: 30s.
	NotFoundTTL Duration `json:"not_found_ttl,omitempty"`

	// Globs of the repositories, by the upstream's own names such as `library/nginx`,
	// that may be asked for. It must be given, if only as `**`, where there are
	// credentials: who may read here reads what they open. Default: all.
	Allow []string `json:"allow,omitempty"`

	// Globs of exceptions from `allow`. Default: none.
	Deny []string `json:"deny,omitempty"`

	// A file of PEM certificates to trust besides the system's. May have placeholders.
	CAFile string `json:"ca_file,omitempty"`
}

// Fresh is how long some tags are served without asking the upstream.
type Fresh struct {
	// Globs of the tags. Default: all that no other rule names.
	Tags []string `json:"tags,omitempty"`

	// How long, or `forever`. May be a placeholder.
	For Duration `json:"for"`
}

// MinFree is how much of a disk must stay free, as it is configured: a percentage such as
// `5%`, a size such as `20GiB`, or a placeholder for one.
type MinFree string

// cacheOptions are a Cache's options as they are used.
type cacheOptions struct {
	names     upstream.Names
	upstreams []upstreamOptions
	minFree   freeSpace
	maxSize   int64 // 0: any
	keep      glob.Set
	maxIdle   time.Duration // 0: for ever
	prefetch  bool
}

// upstreamOptions are an Upstream's options as they are used; what is not given is empty.
type upstreamOptions struct {
	name               string
	urls               []string // without a slash at the end
	username, password string
	dockerConfig       string // absolute path
	caFile             string // absolute path
	fresh              upstream.Freshness
	staleIfError       time.Duration // 0: forever
	notFoundTTL        time.Duration
	access             upstream.Access
}

// freeSpace is a part of a disk, by percent or in bytes, the other being 0.
type freeSpace struct {
	percent float64
	bytes   uint64
}

// of returns how many bytes of a disk of a size it is.
func (f freeSpace) of(size uint64) uint64 {
	if f.percent > 0 {
		return uint64(f.percent / 100 * float64(size))
	}
	return f.bytes
}

// parse returns the space, with placeholders replaced.
func (m MinFree) parse() (freeSpace, error) {
	text, err := replace(string(m))
	if err != nil {
		return freeSpace{}, err
	}
	number, isPercent := strings.CutSuffix(text, "%")
	if isPercent {
		percent, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(percent >= 0 && percent < 100) {
			return freeSpace{}, fmt.Errorf("%q must be from 0%% to below 100%%", text)
		}
		return freeSpace{percent: percent}, nil
	}
	size, err := Size(text).parse()
	if err != nil {
		return freeSpace{}, fmt.Errorf("%q is neither a percentage nor a size such as 20GiB", text)
	}
	return freeSpace{bytes: uint64(size)}, nil
}

// parseOrForever returns the duration, with placeholders replaced, or that it is forever.
func (d Duration) parseOrForever() (duration time.Duration, forever bool, err error) {
	text, err := replace(string(d))
	if err != nil || text == "forever" {
		return 0, err == nil, err
	}
	duration, err = Duration(text).parse()
	return duration, false, err
}

// parseGlobs returns globs as they are used. They have no placeholders: {env.ORG} is a
// glob too, and one that quietly matched nothing would be a poor guard.
func parseGlobs(globs []string) (glob.Set, error) {
	for _, glob := range globs {
		if caddy.NewReplacer().ReplaceKnown(glob, "") != glob {
			return nil, fmt.Errorf("bad glob %q: globs have no placeholders", glob)
		}
	}
	return glob.Parse(globs)
}

// checkURL reports why text is not where a registry can be.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("it cannot be read as a URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("it must begin with http:// or https://")
	case u.Hostname() == "":
		return errors.New("it must have a host")
	case u.User != nil:
		return errors.New("it must have no user or password, which are options of their own")
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return errors.New("it must have no query and no fragment")
	}
	return nil
}
