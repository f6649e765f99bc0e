package job

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // refuses duplicate names, and tells a from A
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	maxTokenSize = 16 << 10
	// leeway is how far the issuer's clock may be ahead of this one.
	leeway = time.Minute
	// maxShown bounds how much of a claim an error tells, in characters.
	maxShown = 255
)

// algorithms are those of signatures that only the issuer can make. HS256 and its like
// would let everybody sign who can verify.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

var (
	errNotIssued = errors.New("it is no token of this issuer")
	errForged    = errors.New("none of the issuer's keys made the token's signature")
	errNoExpiry  = errors.New("the token does not say when it expires")
	errExpired   = errors.New("the token has expired: let the job ask its CI for another")
	errEarly     = errors.New("the token is of the future")
)

// verified is what a token says whose signature is right: who its job is, or why it is
// nobody here. It holds for as long as those keys do.
type verified struct {
	expires  time.Time
	identity *Identity
	err      error
	keys     *keySet
}

func (v *verified) result() (*Identity, error) {
	if !time.Now().Before(v.expires) {
		return nil, errExpired
	}
	return v.identity, v.err
}

// Issued reports whether a text claims to be a token of this issuer. Nothing of it is
// verified.
func (i *Issuer) Issued(text string) bool {
	if len(text) > maxTokenSize {
		return false
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 || slices.ContainsFunc(parts, isNoPart) {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return false
	}
	// Clusters often have the same issuer, and are told apart by their keys.
	return claims.Issuer == i.config.Issuer || i.config.JWKSURL == "" && sameIssuer(claims.Issuer, i.config.Issuer)
}

func isNoPart(part string) bool {
	return part == "" || strings.Trim(part, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != ""
}

// Verify returns whom a token proves, which is not to be changed. Other errors than
// ErrUnavailable tell the job's owner what is wrong with it.
func (i *Issuer) Verify(ctx context.Context, text string) (*Identity, error) {
	sum := sha256.Sum256([]byte(text))
	if v, ok := i.verified.Get(sum); ok && i.keys.areCurrent(v.keys) {
		return v.result()
	}
	if !i.Issued(text) {
		return nil, errNotIssued
	}
	token, err := jose.ParseSignedCompact(text, algorithms)
	if err != nil {
		return nil, fmt.Errorf("the token cannot be read: %w", err)
	}
	payload, keys, err := i.keys.verify(ctx, token)
	if err != nil {
		return nil, err
	}
	v, err := i.read(payload, keys)
	if err != nil {
		return nil, err
	}
	i.verified.Add(sum, v)
	return v.result()
}

// read returns what a payload says that the issuer signed, unless it must not be taken at
// this time. The verifier of go-oidc takes the last of several claims of one name, looks at
// no iat, and lets nbf be five minutes ahead.
func (i *Issuer) read(payload []byte, keys *keySet) (*verified, error) {
	var standard jwt.Claims
	var claims map[string]any
	err := json.Unmarshal(payload, &claims)
	if err == nil {
		err = json.Unmarshal(payload, &standard)
	}
	if err != nil {
		return nil, fmt.Errorf("the token's claims cannot be read: %w", err)
	}
	if standard.Expiry == nil {
		return nil, errNoExpiry
	}
	// What is not given is long ago.
	latest := time.Now().Add(leeway)
	if latest.Before(standard.NotBefore.Time()) || latest.Before(standard.IssuedAt.Time()) {
		return nil, errEarly
	}
	v := &verified{expires: standard.Expiry.Time(), keys: keys}
	if v.err = i.match(&standard, claims, keys); v.err == nil {
		v.identity, v.err = i.identify(claims, v.expires)
	}
	return v, nil
}

// match returns an ErrNoMatch if the token is not one of those that are taken. It tells
// no other claims than those that do not match.
func (i *Issuer) match(standard *jwt.Claims, claims map[string]any, keys *keySet) error {
	if standard.Issuer != i.config.Issuer && standard.Issuer != keys.issuer {
		return fmt.Errorf("%w: its issuer is %s, not %s", ErrNoMatch, shown(standard.Issuer), i.config.Issuer)
	}
	if !standard.Audience.Contains(i.config.Audience) {
		return fmt.Errorf("%w: it is for another audience: let the job ask its CI for a token whose audience is %s", ErrNoMatch, i.config.Audience)
	}
	for _, match := range i.config.Match {
		wanted := strings.Join(match.Values, " or ")
		value, ok := claims[match.Claim].(string)
		if !ok {
			return fmt.Errorf("%w: claim %s is missing or no string, and must match %s", ErrNoMatch, match.Claim, wanted)
		}
		if !match.Values.Match(value) {
			return fmt.Errorf("%w: claim %s is %s, and must match %s", ErrNoMatch, match.Claim, shown(value), wanted)
		}
	}
	return nil
}

func (i *Issuer) identify(claims map[string]any, expires time.Time) (*Identity, error) {
	user, err := i.user.expand(claims)
	if err != nil {
		return nil, err
	}
	identity := &Identity{User: user, Expires: expires}
	for _, template := range i.groups {
		group, err := template.expand(claims)
		if err != nil {
			return nil, err
		}
		identity.Groups = append(identity.Groups, group)
	}
	return identity, nil
}

// shown returns the beginning of a claim as errors tell it.
func shown(value string) string {
	if runes := []rune(value); len(runes) > maxShown {
		return fmt.Sprintf("%q...", string(runes[:maxShown]))
	}
	return fmt.Sprintf("%q", value)
}
