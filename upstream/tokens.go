package upstream

import (
	"context"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	// tokenTimeout is longer than a dial, a handshake and the wait for an answer, whose
	// own limits tell more.
	tokenTimeout = time.Minute
	// maxTokens are kept for each endpoint, one for each repository. A token has some
	// kilobytes, and whoever may ask for any name makes as many as they like.
	maxTokens = 1000
)

// newAuthClient returns a client that authenticates to the endpoint when it asks for that.
func (e *endpoint) newAuthClient(transport http.RoundTripper, credential auth.CredentialFunc) *auth.Client {
	return &auth.Client{
		Client: &http.Client{Transport: transport, CheckRedirect: e.checkRedirect},
		Header: http.Header{"User-Agent": {"caddy-registry"}},
		Credential: func(ctx context.Context, host string) (auth.Credential, error) {
			if host != e.base.Host {
				return auth.EmptyCredential, nil
			}
			found, err := credential(ctx, host)
			if err != nil {
				return found, e.fail(ErrDenied, "the credentials for %s cannot be read: %v", host, err)
			}
			return found, nil
		},
		Cache:    newTokenCache(),
		ClientID: "caddy-registry",
		// The addresses that are dialed are looked at, which holds more. Token services of
		// a registry on the same machine or network are fine.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
}

// tokenCache is an [auth.Cache] for one endpoint. Unlike that package's own it has a
// bound, and a fetch that several requests wait for does not end with the first of them.
type tokenCache struct {
	scheme  atomic.Int32 // an auth.Scheme
	tokens  *lru.Cache[string, string]
	fetches singleflight.Group
}

func newTokenCache() *tokenCache {
	tokens, err := lru.New[string, string](maxTokens)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &tokenCache{tokens: tokens}
}

// GetScheme returns how the endpoint asked to be authenticated to.
func (c *tokenCache) GetScheme(context.Context, string) (auth.Scheme, error) {
	if scheme := auth.Scheme(c.scheme.Load()); scheme != auth.SchemeUnknown {
		return scheme, nil
	}
	return auth.SchemeUnknown, errdef.ErrNotFound
}

// GetToken returns the token that was fetched for the scopes in key.
func (c *tokenCache) GetToken(_ context.Context, _ string, scheme auth.Scheme, key string) (string, error) {
	if token, ok := c.tokens.Get(scheme.String() + " " + key); ok {
		return token, nil
	}
	return "", errdef.ErrNotFound
}

// Set fetches a token and keeps it.
func (c *tokenCache) Set(ctx context.Context, _ string, scheme auth.Scheme, key string, fetch func(context.Context) (string, error)) (string, error) {
	key = scheme.String() + " " + key
	fetched := c.fetches.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		token, err := fetch(ctx)
		if err == nil {
			c.tokens.Add(key, token)
			c.scheme.Store(int32(scheme))
		}
		return token, err
	})
	select {
	case f := <-fetched:
		return f.Val.(string), f.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Interface guard
var _ auth.Cache = (*tokenCache)(nil)
