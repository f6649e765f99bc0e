// Package authn tells who asks: by API keys, by tokens that clients fetch for them, by
// the sessions of people who signed in at an identity provider, and by tokens of CI jobs
// that another issuer vouches for. It answers the token service, the API for keys and
// the steps of signing in. What somebody may do then is package authz's.
package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/storage"
)

// Site is how people, machines and jobs prove who they are on a site. Its fields are not
// to be changed while it serves.
type Site struct {
	Accounts  *storage.Accounts
	Tokens    *Tokens
	Sealer    *Sealer
	Throttle  *Throttle
	Once      *Once
	Providers []Provider
	// Guests are the versions of providers where people sign in on another site who are
	// somebody here too.
	Guests   []string
	Jobs     []*job.Issuer
	Keys     KeyRules
	Policies authz.Policies
	Admins   []authz.Subject
	// PublicURL is the site's scheme and host, empty if they are those of each request.
	PublicURL string
	// Candidates returns the repositories that a name in a path may stand for, which
	// depends on more of a request than a scope has.
	Candidates func(name string) []string
	// Address returns whose request it is, as far as that can be trusted.
	Address func(*http.Request) string
	// Secure tells whether the client's connection is encrypted.
	Secure func(*http.Request) bool
	// Failed counts attempts to prove who one is that failed.
	Failed func(reason string)
	Log    *slog.Logger
	// Audit takes what is to be answered for later: logins, keys, refusals.
	Audit *slog.Logger
}

// Provider is where people sign in.
type Provider struct {
	*oidc.Provider
	CallbackPath string
	Refresh      time.Duration
}

// KeyRules bound the life of API keys.
type KeyRules struct {
	Lifetime    time.Duration // of those that nothing is said of
	MaxLifetime time.Duration
	Grace       time.Duration // that a key works after it was rotated
}

// Caller is who sent a request. Identity is nil if that is not known.
type Caller struct {
	*authz.Identity
	Key     *storage.APIKey  // that proved it, itself, by a token or in a session
	Session *storage.Session // of a browser
	Token   *Token           // that was sent instead of what proved it
	Job     *job.Issuer      // of the workload identity that proved it, itself or by a token
	// JobExpires is when the job's own token expires, if that was sent.
	JobExpires time.Time
}

var anonymous = &Caller{}

// CredentialsError is an attempt to prove who one is that failed.
type CredentialsError struct {
	Reason string // in a word, as it is counted
	Err    error  // in words that whoever tried can act on
}

func (e *CredentialsError) Error() string { return e.Err.Error() }
func (e *CredentialsError) Unwrap() error { return e.Err }

// reasonTokenExpired is that of tokens which this registry made. Every client has some, and
// several at once: nobody tries to get in with them.
const reasonTokenExpired = "token_expired"

func badCredentials(reason, format string, args ...any) error {
	return &CredentialsError{reason, fmt.Errorf(format, args...)}
}

// ErrUnavailable means that what somebody sent cannot be verified now.
var ErrUnavailable = errors.New("credentials cannot be verified now")

// Identify returns who sent a request: a [CredentialsError] if what it has to prove that
// is wrong, expired or revoked. A session that has ended is anonymous.
func (s *Site) Identify(r *http.Request) (*Caller, error) {
	if value := r.Header["Authorization"]; len(value) > 0 {
		return s.identifyHeader(r, value)
	}
	if len(r.Header["Cookie"]) == 0 {
		return anonymous, nil
	}
	return s.identifySession(r)
}

func (s *Site) identifyHeader(r *http.Request, values []string) (*Caller, error) {
	if len(values) > 1 {
		return nil, badCredentials("malformed", "there are %d Authorization headers", len(values))
	}
	scheme, credentials, _ := strings.Cut(values[0], " ")
	switch {
	case strings.EqualFold(scheme, "Basic"):
		user, password, ok := r.BasicAuth()
		if !ok {
			return nil, badCredentials("malformed", "the Authorization header is not Basic as in RFC 7617")
		}
		return s.IdentifyPassword(r.Context(), user, password)
	case strings.EqualFold(scheme, "Bearer"):
		return s.identifyBearer(r.Context(), strings.TrimSpace(credentials))
	}
	// Not told, and so not logged, is what was sent: without a scheme it is a secret.
	return nil, badCredentials("malformed", "the scheme of the Authorization header must be Basic or Bearer")
}

// IdentifyPassword returns whom a user's password, an API key or a job's token, proves.
func (s *Site) IdentifyPassword(ctx context.Context, user, password string) (*Caller, error) {
	// Names of jobs have colons, at the first of which RFC 7617 ends the user. No password has one.
	if i := strings.LastIndexByte(password, ':'); i >= 0 {
		user, password = user+":"+password[:i], password[i+1:]
	}
	if !isKey(password) {
		return s.identifyJob(ctx, password)
	}
	caller, err := s.identifyKey(ctx, password)
	if err == nil && caller.Name != user {
		return nil, badCredentials("user", "the API key is not that user's: use its owner's name")
	}
	return caller, err
}

func (s *Site) identifyBearer(ctx context.Context, text string) (*Caller, error) {
	if isKey(text) {
		return s.identifyKey(ctx, text)
	}
	token, err := s.Tokens.Verify(ctx, text, time.Now())
	switch {
	case err == nil:
		return s.identifyToken(ctx, token)
	case errors.Is(err, errNoToken):
		return s.identifyJob(ctx, text)
	case errors.Is(err, errTokenExpired):
		return nil, badCredentials(reasonTokenExpired, "%w: fetch another", err)
	case errors.Is(err, errTokenEarly), errors.Is(err, errTokenForged):
		return nil, badCredentials("token", "%w: fetch another", err)
	}
	return nil, err
}

// identifyToken returns whom a token stands for, as they are now.
func (s *Site) identifyToken(ctx context.Context, token *Token) (*Caller, error) {
	switch {
	case token.Key != "":
		key, err := s.Accounts.KeyByID(ctx, token.Key)
		if errors.Is(err, storage.ErrKeyUnknown) {
			return nil, badCredentials("revoked", "the API key of this token is gone")
		}
		if err != nil {
			return nil, err
		}
		caller, err := s.keyCaller(key)
		if err == nil {
			caller.Token = token
		}
		return caller, err
	case token.Job != "":
		issuer := s.jobIssuer(token.Job)
		if issuer == nil || issuer.Version() != token.JobVersion {
			return nil, badCredentials("revoked", "the workload identity %s is not what it was: fetch another token", token.Job)
		}
		return &Caller{Identity: &authz.Identity{Name: token.Subject, Groups: token.Groups}, Job: issuer, Token: token}, nil
	}
	return &Caller{Token: token}, nil
}

// checkOwner reports why a key's owner is nobody here: another site's provider or workload
// identity knows them, or one that was.
func (s *Site) checkOwner(key *storage.APIKey) error {
	switch {
	case key.Person != 0 && !s.knowsPeopleOf(key.Version):
		return badCredentials("revoked", "the owner of the API key signed in at a provider that is not here or not configured as it was: sign in again")
	case key.Job != "":
		if issuer := s.jobIssuer(key.Job); issuer == nil || issuer.Version() != key.Version {
			return badCredentials("revoked", "the API key was made by a job of %s, which is not here or not what it was", key.Job)
		}
	}
	return nil
}

// knowsPeopleOf reports whether people are somebody here who signed in by a version of a
// provider's configuration.
func (s *Site) knowsPeopleOf(version string) bool {
	return slices.Contains(s.Guests, version) || slices.ContainsFunc(s.Providers, func(p Provider) bool { return p.Version() == version })
}

// jobIssuer returns the workload identity of a name, or nil.
func (s *Site) jobIssuer(name string) *job.Issuer {
	i := slices.IndexFunc(s.Jobs, func(issuer *job.Issuer) bool { return issuer.Name() == name })
	if i < 0 {
		return nil
	}
	return s.Jobs[i]
}

func (s *Site) identifyKey(ctx context.Context, text string) (*Caller, error) {
	hash, err := HashKey(text)
	if err != nil {
		return nil, &CredentialsError{"malformed", err}
	}
	key, err := s.Accounts.KeyByHash(ctx, hash)
	if errors.Is(err, storage.ErrKeyUnknown) {
		return nil, badCredentials("unknown", "the API key is unknown")
	}
	if err != nil {
		return nil, err
	}
	return s.keyCaller(key)
}

// keyCaller returns the owner of a key that has not ended.
func (s *Site) keyCaller(key *storage.APIKey) (*Caller, error) {
	now := time.Now()
	if !key.Revoked.IsZero() {
		return nil, badCredentials("revoked", "the API key was revoked on %s", day(key.Revoked))
	}
	if key.Ended(now) {
		return nil, badCredentials("expired", "the API key expired on %s", day(key.Expires))
	}
	if err := s.checkOwner(key); err != nil {
		return nil, err
	}
	identity := &authz.Identity{Name: key.Owner, Groups: key.Groups}
	if len(key.Scopes) > 0 {
		var err error
		if identity.Scopes, err = authz.ParseScopes(key.Scopes); err != nil {
			return nil, fmt.Errorf("API key %s: %w", key.ID, err)
		}
	}
	s.Accounts.KeyUsed(key.ID, now)
	return &Caller{Identity: identity, Key: key}, nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// identifyJob returns whom a job's token proves. Several workload identities may have one
// issuer: what one does not take another may.
func (s *Site) identifyJob(ctx context.Context, text string) (*Caller, error) {
	refused := badCredentials("unknown", "the password is neither an API key nor a token of an issuer that is trusted here")
	for _, issuer := range s.Jobs {
		if !issuer.Issued(text) {
			continue
		}
		proven, err := issuer.Verify(ctx, text)
		switch {
		case err == nil:
			return &Caller{
				Identity:   &authz.Identity{Name: proven.User, Groups: proven.Groups},
				Job:        issuer,
				JobExpires: proven.Expires,
			}, nil
		case errors.Is(err, job.ErrUnavailable):
			refused = fmt.Errorf("%w: %s: %w", ErrUnavailable, issuer.Name(), err)
		case !errors.Is(refused, ErrUnavailable):
			refused = badCredentials("job", "%s: %w", issuer.Name(), err)
		}
	}
	return nil, refused
}

// Warning returns what the bearer of a key that ends soon is told with each answer, as
// RFC 7234, section 5.5, has it, or nothing.
func (c *Caller) Warning(now time.Time) string {
	if c.Key == nil || c.Key.Expires.IsZero() {
		return ""
	}
	left := c.Key.Expires.Sub(now)
	if left > warnBefore {
		return ""
	}
	return fmt.Sprintf(`299 - "API key %s expires on %s"`, c.Key.ID, day(c.Key.Expires))
}

// warnBefore is how long before its end a key's bearer is warned.
const warnBefore = 14 * 24 * time.Hour

// IsAdmin reports whether a caller may see and end other people's keys. An API key never may.
func (s *Site) IsAdmin(c *Caller) bool {
	if c.Key != nil || c.Identity == nil {
		return false
	}
	for _, subject := range s.Admins {
		if subject.Includes(c.Identity) {
			return true
		}
	}
	return false
}
