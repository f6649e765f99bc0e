// Package job tells which CI job or other workload asks, by the token that its CI or
// cluster signed for it: a JWT (RFC 7519) as Forgejo, GitHub and GitLab give to jobs and
// Kubernetes gives to service accounts. What a job may do then is package authz's.
package job

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/eblume/caddy-registry/glob"
)

// Config is an issuer of tokens, which of them are taken, and what they make of a job.
type Config struct {
	// Name is what the workload identity is called here.
	Name string
	// Issuer is the URL that tokens name as theirs. What its discovery document has may
	// differ by a slash at the end.
	Issuer string
	// Audience is whom tokens must be for.
	Audience string
	// JWKSURL is where the issuer's keys are. Empty: where its discovery document says.
	JWKSURL string
	// Match is what tokens must say, all of it.
	Match []Match
	// User and Groups are what jobs are in policies. {claim.sub} in them stands for the
	// claim sub, for instance.
	User   string
	Groups []string
	// Client asks the issuer. Nil: http.DefaultClient.
	Client *http.Client
	// Log tells why the issuer's keys cannot be read. Nil: nobody is told.
	Log *slog.Logger
}

// Match is what a claim must be: a string that one of the globs matches.
type Match struct {
	Claim  string
	Values glob.Set
}

// Identity is who a job is, until its token expires.
type Identity struct {
	User    string
	Groups  []string
	Expires time.Time
}

var (
	// ErrUnavailable means that the issuer's keys are not known and cannot be read now.
	ErrUnavailable = errors.New("the issuer's keys cannot be read now; the registry's log says why")
	// ErrNoMatch means that the issuer signed a token that is not for this registry, or of
	// a job that is not let in. Another configuration may take it.
	ErrNoMatch = errors.New("the token does not match")
)

// tokensRemembered bounds how many tokens are not verified again.
const tokensRemembered = 1000

// Issuer verifies the tokens of jobs by a [Config].
type Issuer struct {
	config   Config
	version  string
	user     template
	groups   []template
	keys     *keySource
	verified *lru.Cache[[sha256.Size]byte, *verified]
}

// NewIssuer returns the issuer of a configuration. Nobody is asked anything yet.
func NewIssuer(config Config) (*Issuer, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	user, err := parseTemplate(config.User)
	if err != nil {
		return nil, fmt.Errorf("user: %w", err)
	}
	var groups []template
	for _, text := range config.Groups {
		group, err := parseTemplate(text)
		if err != nil {
			return nil, fmt.Errorf("groups: %w", err)
		}
		groups = append(groups, group)
	}
	remembered, err := lru.New[[sha256.Size]byte, *verified](tokensRemembered)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Issuer{
		config:   config,
		version:  config.version(),
		user:     user,
		groups:   groups,
		keys:     newKeySource(&config),
		verified: remembered,
	}, nil
}

func (c *Config) check() error {
	switch {
	case c.Issuer == "":
		return errors.New("issuer is needed")
	case c.Audience == "":
		return errors.New("audience is needed")
	case len(c.Match) == 0:
		return errors.New("match is needed: without it, everybody's jobs at this issuer would be let in")
	}
	for _, match := range c.Match {
		if match.Claim == "" || len(match.Values) == 0 {
			return errors.New("match must have a claim and at least one glob")
		}
	}
	return nil
}

func (c *Config) version() string {
	text, err := json.Marshal([]any{c.Issuer, c.Audience, c.JWKSURL, c.Match, c.User, c.Groups})
	if err != nil {
		panic(err) // strings
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Name returns what the workload identity is called.
func (i *Issuer) Name() string { return i.config.Name }

// Version changes with what decides which tokens are taken and what jobs are, so that
// what was decided before can be told.
func (i *Issuer) Version() string { return i.version }

// sameIssuer reports whether two URLs differ by no more than a slash at the end.
func sameIssuer(a, b string) bool {
	return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
}
