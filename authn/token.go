package authn

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/eblume/caddy-registry/storage"
)

const (
	// TokenLifetime is how long a token lasts.
	TokenLifetime = 300 * time.Second
	// signFor is how long a key signs before another takes over.
	signFor = 7 * 24 * time.Hour
	// verifyFor is how long after it was made a key's tokens are taken: longer than the
	// last of them, on a machine whose clock is wrong, can last.
	verifyFor = signFor + time.Hour
	// reloadAfter is how often unknown keys are looked for in the database.
	reloadAfter = time.Second
	// tokensRemembered bounds how many tokens are not verified again, and how long they
	// may be, in bytes: anybody can have tokens made.
	tokensRemembered  = 10_000
	maxRememberedSize = 2 << 10
	maxTokenSize      = 16 << 10
)

// audience is that of all tokens, whatever service a client says that it asks: there is
// one registry here.
const audience = "caddy-registry"

// Access is what a token's bearer asked to do to a repository, by the name that its
// requests have in their paths, and was allowed to.
type Access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// Token is what a token says. Who it stands for is looked up again with each request.
type Token struct {
	jwt.Claims
	Access []Access `json:"access"`
	// Key is the id of the API key that it was made for.
	Key string `json:"key,omitempty"`
	// Job is the workload identity that it was made for, as it was then, with Groups; the
	// subject is its user.
	Job        string   `json:"job,omitempty"`
	JobVersion string   `json:"job_version,omitempty"`
	Groups     []string `json:"groups,omitempty"`
}

// Allows reports whether a token was made for an action on something.
func (t *Token) Allows(kind, name, action string) bool {
	for i := range t.Access {
		a := &t.Access[i]
		if a.Name == name && a.Type == kind && slices.Contains(a.Actions, action) {
			return true
		}
	}
	return false
}

// Tokens makes and verifies tokens with keys that are kept in the database, encrypted.
type Tokens struct {
	accounts *storage.Accounts
	sealer   *Sealer
	log      *slog.Logger
	verified *lru.Cache[string, *Token]

	mu       sync.Mutex // held while keys are loaded or rolled
	loaded   time.Time
	keysLock sync.RWMutex
	keys     map[string]ed25519.PublicKey
	signer   jose.Signer
	signs    time.Time // when the signer's key was made
}

// NewTokens returns the tokens of a registry. Nothing is loaded yet.
func NewTokens(accounts *storage.Accounts, sealer *Sealer, log *slog.Logger) *Tokens {
	verified, err := lru.New[string, *Token](tokensRemembered)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Tokens{accounts: accounts, sealer: sealer, log: log, verified: verified}
}

// Issue returns what says token from now on, until it expires.
func (t *Tokens) Issue(ctx context.Context, token Token, now time.Time) (string, error) {
	signer, err := t.currentSigner(ctx, now)
	if err != nil {
		return "", err
	}
	token.Issuer, token.Audience, token.ID = audience, jwt.Audience{audience}, uuid.NewString()
	token.IssuedAt, token.NotBefore = jwt.NewNumericDate(now), jwt.NewNumericDate(now)
	return jwt.Signed(signer).Claims(token).Serialize()
}

// Errors of tokens.
var (
	errNoToken      = errors.New("it does not say that this registry made it")
	errTokenForged  = errors.New("the token was not made by this registry")
	errTokenExpired = errors.New("the token has expired")
	errTokenEarly   = errors.New("the token is of the future")
)

// Verify returns what a token says, which is not to be changed. errNoToken: it is none
// of this registry, and does not claim to be.
func (t *Tokens) Verify(ctx context.Context, text string, now time.Time) (*Token, error) {
	token, ok := t.verified.Get(text)
	if !ok {
		var err error
		if token, err = t.verify(ctx, text, now); err != nil {
			return nil, err
		}
		if len(text) <= maxRememberedSize {
			t.verified.Add(strings.Clone(text), token) // which else holds the whole header
		}
	}
	if !now.Before(token.Expiry.Time()) {
		return nil, errTokenExpired
	}
	return token, nil
}

func (t *Tokens) verify(ctx context.Context, text string, now time.Time) (*Token, error) {
	if len(text) > maxTokenSize || strings.Count(text, ".") != 2 {
		return nil, errNoToken
	}
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(parsed.Headers) != 1 {
		return nil, errNoToken
	}
	var claimed jwt.Claims
	if parsed.UnsafeClaimsWithoutVerification(&claimed) != nil || claimed.Issuer != audience {
		return nil, errNoToken
	}
	key, err := t.publicKey(ctx, parsed.Headers[0].KeyID, now)
	if err != nil {
		return nil, err
	}
	token := new(Token)
	if err := parsed.Claims(key, token); err != nil {
		return nil, errTokenForged
	}
	err = token.Claims.ValidateWithLeeway(jwt.Expected{Issuer: audience, AnyAudience: jwt.Audience{audience}, Time: now}, time.Minute)
	switch {
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return nil, errTokenEarly
	case errors.Is(err, jwt.ErrExpired):
		return nil, errTokenExpired
	case err != nil || token.Expiry == nil:
		return nil, errTokenForged
	}
	return token, nil
}

func (t *Tokens) publicKey(ctx context.Context, id string, now time.Time) (ed25519.PublicKey, error) {
	for range 2 {
		t.keysLock.RLock()
		key, ok := t.keys[id]
		t.keysLock.RUnlock()
		if ok {
			return key, nil
		}
		if err := t.reload(ctx, now); err != nil {
			return nil, err
		}
	}
	return nil, errTokenForged
}

// currentSigner returns what signs now.
func (t *Tokens) currentSigner(ctx context.Context, now time.Time) (jose.Signer, error) {
	t.keysLock.RLock()
	signer, signs := t.signer, t.signs
	t.keysLock.RUnlock()
	if signer != nil && now.Sub(signs) < signFor {
		return signer, nil
	}
	if err := t.roll(ctx, now); err != nil {
		return nil, err
	}
	t.keysLock.RLock()
	defer t.keysLock.RUnlock()
	return t.signer, nil
}

// reload looks for keys that another process made, not too often: anybody can send a
// token with an unknown key.
func (t *Tokens) reload(ctx context.Context, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.loaded) < reloadAfter {
		return nil
	}
	return t.load(ctx, now)
}

// roll makes a new key sign, unless another process made one already.
func (t *Tokens) roll(ctx context.Context, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(ctx, now); err != nil {
		return err
	}
	if t.signer != nil && now.Sub(t.signs) < signFor {
		return nil
	}
	since := now.Add(time.Second - signFor) // in whole seconds, one that is just old enough is older
	if t.signer == nil {
		since = now.Add(time.Hour) // what is there, if anything, cannot be decrypted
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	_, err = t.accounts.AddSigningKey(ctx, storage.SigningKey{
		ID: uuid.NewString(), Created: now, Sealed: t.sealer.Seal(private.Seed(), forSigning),
	}, since)
	if err != nil {
		return err
	}
	if err := t.accounts.DeleteSigningKeys(ctx, now.Add(-verifyFor)); err != nil {
		return err
	}
	if err := t.load(ctx, now); err != nil {
		return err
	}
	if t.signer == nil {
		return fmt.Errorf("signing key: %w", errSealed)
	}
	return nil
}

// load reads the keys; t.mu is held.
func (t *Tokens) load(ctx context.Context, now time.Time) error {
	stored, err := t.accounts.SigningKeys(ctx)
	if err != nil {
		return err
	}
	keys := make(map[string]ed25519.PublicKey, len(stored))
	var signer jose.Signer
	var signs time.Time
	for _, key := range stored { // newest first
		if now.Sub(key.Created) > verifyFor {
			continue
		}
		seed, err := t.sealer.Open(key.Sealed, forSigning)
		if err != nil || len(seed) != ed25519.SeedSize {
			t.log.WarnContext(ctx, "a signing key of tokens is not used", "key", key.ID, "error", err)
			continue
		}
		private := ed25519.NewKeyFromSeed(seed)
		keys[key.ID] = private.Public().(ed25519.PublicKey)
		if signer != nil {
			continue
		}
		options := new(jose.SignerOptions).WithType("JWT")
		signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: key.ID}}, options)
		if err != nil {
			return err
		}
		signs = key.Created
	}
	t.keysLock.Lock()
	t.keys, t.signer, t.signs = keys, signer, signs
	t.keysLock.Unlock()
	t.loaded = now
	return nil
}
