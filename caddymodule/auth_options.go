package caddymodule

import (
	"net/http"
	"time"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/glob"
)

// Auth tells who asks a registry, and what they may do. It guards the registry's handlers
// that follow it: people sign in at an OpenID Connect provider, machines have API keys, and
// CI jobs push with the tokens that their CI gives them. It answers what signing in,
// tokens and API keys need under /auth/ and /zot/auth/; everything else is passed on.
type Auth struct {
	// Where people sign in. With more than one, all but the first need a prefix. Default:
	// nobody signs in.
	OIDC []OIDC `json:"oidc,omitempty"`

	// Whose tokens CI jobs may use instead of a stored secret. Default: nobody's.
	WorkloadIdentities []WorkloadIdentity `json:"workload_identities,omitempty"`

	// How long API keys live.
	APIKeys APIKeys `json:"api_keys,omitzero"`

	// Who may do what. The first policy that names a repository decides; where none does,
	// nothing is allowed. Default: none.
	Policies []Policy `json:"policies,omitempty"`

	// Who may see the pages about storage, and other people's API keys. Anonymous cannot
	// be one. Default: nobody.
	Admins []Subject `json:"admins,omitempty"`

	// The scheme and host by which people reach this registry, to which providers send
	// them back. May have placeholders. Default: those of each request.
	PublicURL string `json:"public_url,omitempty"`

	site      *authn.Site
	endpoints map[string]http.HandlerFunc // by path
	open      func() error                // once; sets what the site keeps
}

// OIDC is an OpenID Connect provider where people sign in.
type OIDC struct {
	// What the provider is called here: lower-case letters, digits, `-` and `_`.
	Name string `json:"name"`

	// The provider's issuer URL, as its discovery document has it, with or without a
	// slash at the end. May have placeholders.
	Issuer string `json:"issuer"`

	// This registry's name at the provider. May have placeholders.
	ClientID string `json:"client_id"`

	// The client's secret. May be a placeholder. Default: none, for a public client; PKCE
	// is used with and without it.
	ClientSecret string `json:"client_secret,omitempty"`

	// What the provider is asked for, `openid` among them. With `offline_access`, for which
	// it may ask people's consent, groups are kept up to date without signing in again, and
	// keys end with their owner. May have placeholders. Default: `openid`, `email` and `profile`.
	Scopes []string `json:"scopes,omitempty"`

	// The claim that is a person's name in policies. May have placeholders. Default:
	// `preferred_username`.
	UsernameClaim string `json:"username_claim,omitempty"`

	// The claim that lists a person's groups. May have placeholders. Default: `groups`.
	GroupsClaim string `json:"groups_claim,omitempty"`

	// The path to which the provider sends people back, as it must know it. May have
	// placeholders. Default: `/auth/callback/` and the provider's name.
	CallbackPath string `json:"callback_path,omitempty"`

	// How often the provider is asked again about whoever has a session or an API key.
	// May be a placeholder. Default: 15m.
	Refresh Duration `json:"refresh,omitempty"`

	// What is put before the names of this provider's people and groups, so that they are
	// not taken for another provider's. May have placeholders. Default: nothing, which
	// only the first provider can have.
	Prefix string `json:"prefix,omitempty"`
}

// WorkloadIdentity lets CI jobs use tokens that another issuer signs for them.
type WorkloadIdentity struct {
	// What it is called here: lower-case letters, digits, `-` and `_`; no provider's name.
	Name string `json:"name"`

	// The issuer of the tokens. May have placeholders.
	Issuer string `json:"issuer"`

	// The audience that the tokens must be for, which jobs ask their CI for. May have
	// placeholders.
	Audience string `json:"audience"`

	// What the tokens must say, at least one claim. All must match.
	Match []ClaimMatch `json:"match,omitempty"`

	// The job's name in policies, with the token's claims as in `ci:{claim.repository}`.
	// It has no other placeholders. Default: the workload identity's name, a colon and
	// `{claim.sub}`.
	User string `json:"user,omitempty"`

	// The job's groups in policies, with claims as in `user`. Default: none.
	Groups []string `json:"groups,omitempty"`

	// Where the issuer's keys are. May have placeholders. Default: what the issuer's
	// discovery document says.
	JWKSURL string `json:"jwks_url,omitempty"`

	// A file of PEM certificates to trust besides the system's, of who has the issuer's
	// keys. A leading `~` is Caddy's home. May have placeholders.
	CAFile string `json:"ca_file,omitempty"`
}

// ClaimMatch is what a claim of a token must be.
type ClaimMatch struct {
	// The claim's name. Only claims that are strings match.
	Claim string `json:"claim"`

	// Globs, one of which must match. `*` stops at a slash, `**` does not.
	Globs []string `json:"globs"`
}

// APIKeys bounds how long API keys live.
type APIKeys struct {
	// How long keys live that are made without saying so. May be a placeholder. Default:
	// 90d, or `max_lifetime` if that is less.
	Lifetime Duration `json:"lifetime,omitempty"`

	// How long keys may live. May be a placeholder. Default: 365d.
	MaxLifetime Duration `json:"max_lifetime,omitempty"`

	// How long a key still works after it was rotated. May be a placeholder. Default: 24h.
	RotationGrace Duration `json:"rotation_grace,omitempty"`
}

// Policy is what is allowed in some repositories. Nothing in it has placeholders.
type Policy struct {
	// Globs of the repositories' names. `*` stops at a slash, `**` does not.
	Repositories []string `json:"repositories"`

	// What is allowed to whom, at least one. Everything else is denied.
	Rules []PolicyRule `json:"rules"`
}

// PolicyRule is what somebody may do.
type PolicyRule struct {
	Subject

	// What they may do, some of `read`, `create` (push what is new, and tags that are not
	// there yet), `update` (move tags) and `delete`.
	Actions []string `json:"actions"`

	// Globs of the tags that it is allowed for. They cannot limit `read`. Default: all.
	Tags []string `json:"tags,omitempty"`
}

// Subject is whom something is allowed to.
type Subject struct {
	// `anonymous` (everybody, known or not), `authenticated` (everybody who is known),
	// `user` or `group`.
	Kind string `json:"kind"`

	// The user's or group's name.
	Name string `json:"name,omitempty"`
}

// authOptions are an Auth's options as they are used.
type authOptions struct {
	providers []oidcOptions
	jobs      []jobOptions
	keys      keyOptions
	policies  authz.Policies
	admins    []authz.Subject
	publicURL string // scheme and host as browsers write them, or empty
}

// oidcOptions are an OIDC's options as they are used; what is not given is empty.
type oidcOptions struct {
	name, issuer               string
	clientID, clientSecret     string
	scopes                     []string
	usernameClaim, groupsClaim string
	callbackPath               string
	refresh                    time.Duration
	prefix                     string
}

// jobOptions are a WorkloadIdentity's options as they are used; what is not given is empty.
type jobOptions struct {
	name, issuer, audience string
	match                  []claimMatch
	user                   string   // template
	groups                 []string // templates
	jwksURL                string
	caFile                 string // absolute path
}

// claimMatch is what a claim must be.
type claimMatch struct {
	claim string
	globs glob.Set
}

// keyOptions are APIKeys as they are used.
type keyOptions struct {
	lifetime, maxLifetime, grace time.Duration
}
