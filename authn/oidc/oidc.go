// Package oidc signs people in at a provider of OpenID Connect, by authorization codes
// with PKCE, and asks it again later about those who did.
package oidc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

var (
	// ErrUnavailable means that a provider does not answer, or that what it says of itself
	// cannot be used.
	ErrUnavailable = errors.New("the identity provider cannot be used now")
	// ErrEnded means that a provider does not vouch for somebody any more.
	ErrEnded = errors.New("the identity provider has ended the sign-in")
)

// Config is how a provider is known, and how it knows this registry.
type Config struct {
	// Name is what the provider is called here.
	Name string
	// Issuer is its URL. A slash at the end does not matter.
	Issuer   string
	ClientID string
	// ClientSecret is empty for a public client.
	ClientSecret string
	Scopes       []string
	// UsernameClaim and GroupsClaim say what somebody is called, and the groups they are
	// in. They are read from the ID token, or from userinfo if one is not there.
	UsernameClaim, GroupsClaim string
	// Prefix is put before names and groups, so that they are no other provider's.
	Prefix string
	// Reserved are the prefixes of other providers. Whoever's name begins with one does not
	// sign in, and such groups are left out.
	Reserved []string
	// Client sends the requests; nil: one with time-outs of its own.
	Client *http.Client
	// Log is told when the provider cannot be used, and when it can again; nil: nobody is.
	Log *slog.Logger
}

// Provider is where people sign in. It may be used concurrently.
type Provider struct {
	config Config
	issuer string
	client *http.Client
	// style is the [oauth2.AuthStyle] that the token endpoint is known to take.
	style atomic.Int32
	// pace bounds how often keys are read.
	pace *rate.Limiter

	readings singleflight.Group
	mu       sync.Mutex
	last     reading
}

// NewProvider returns a provider. It is not asked anything yet.
func NewProvider(config Config) *Provider {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	return &Provider{
		config: config,
		issuer: strings.TrimSuffix(config.Issuer, "/"),
		client: newClient(config.Client),
		pace:   rate.NewLimiter(rate.Every(2*time.Second), 2),
	}
}

// Name returns what the provider is called here.
func (p *Provider) Name() string { return p.config.Name }

// ClientID returns this registry's name at the provider.
func (p *Provider) ClientID() string { return p.config.ClientID }

// Issuer returns by which issuer people of this provider are known here: that of the
// configuration without a slash at its end, so that nobody becomes somebody else when
// the slash is added or removed there.
func (p *Provider) Issuer() string { return p.issuer }

// Version changes with what decides which names and groups people have here. Who signed
// in by another may be taken for somebody else.
func (p *Provider) Version() string {
	text, err := json.Marshal([]string{p.issuer, p.config.UsernameClaim, p.config.GroupsClaim, p.config.Prefix})
	if err != nil {
		panic(err) // strings
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Attempt is what proves that an answer of a provider is to the question that was asked.
type Attempt struct {
	State    string // comes back with the browser
	Nonce    string // comes back in the ID token
	Verifier string // of PKCE, RFC 7636; without it the code is worth nothing
}

// NewAttempt returns an attempt that nobody can guess.
func NewAttempt() Attempt {
	return Attempt{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier()}
}

// Login is what a provider says of somebody.
type Login struct {
	// Issuer is the provider's [Provider.Issuer]. With Subject it says who it is.
	Issuer, Subject string
	// Name and Groups are what policies know them by, with the prefix. Groups are sorted.
	Name   string
	Groups []string
	// IDToken tells the provider later who signs out. A refresh may come without.
	IDToken string
	// RefreshToken is a new one to ask about them with, empty if there is none.
	RefreshToken string
}

// EndSessionURL returns where a browser signs out at the provider too, after which it is
// sent back (OpenID Connect RP-Initiated Logout 1.0). It asks nobody: false if the
// provider has no such place, or none that is known yet. The place alone is returned if
// there is neither an ID token nor where to go back to.
func (p *Provider) EndSessionURL(ctx context.Context, idToken, back string) (string, bool) {
	last, _ := p.look(ctx, rereadAfter)
	if last.document == nil || last.document.EndSession == "" {
		return "", false
	}
	if idToken == "" && back == "" {
		return last.document.EndSession, true
	}
	target, err := url.Parse(last.document.EndSession)
	if err != nil {
		return "", false
	}
	query := target.Query()
	query.Set("client_id", p.config.ClientID)
	if idToken != "" {
		query.Set("id_token_hint", idToken)
	}
	if back != "" {
		query.Set("post_logout_redirect_uri", back)
	}
	target.RawQuery = query.Encode()
	return target.String(), true
}
