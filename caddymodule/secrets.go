package caddymodule

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

// sealKey is where in Caddy's own storage the key is that encrypts secrets in the
// registry's database. By default that is a folder beside the registry's, not in it: a
// copy of the registry does not come with the key.
const sealKey = "registry_secrets/seal.key"

// secrets are what encrypts, and what makes tokens.
type secrets struct {
	sealer *authn.Sealer
	tokens *authn.Tokens
}

func newSecrets(ctx context.Context, store certmagic.Storage, accounts *storage.Accounts, log *slog.Logger) (*secrets, error) {
	key, err := loadSealKey(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("key for secrets, in Caddy's storage: %w", err)
	}
	sealer, err := authn.NewSealer(key)
	if err != nil {
		return nil, err
	}
	return &secrets{sealer, authn.NewTokens(accounts, sealer, log)}, nil
}

// loadSealKey returns the key, which is made if there is none.
func loadSealKey(ctx context.Context, store certmagic.Storage) (_ []byte, err error) {
	key, err := store.Load(ctx, sealKey)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := store.Lock(ctx, sealKey); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Unlock(ctx, sealKey)) }()
	key, err = store.Load(ctx, sealKey) // another process may have made it meanwhile
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, authn.SealKeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return key, store.Store(ctx, sealKey, key)
}

// clientTrusting returns a client that trusts the certificate authorities of a file
// besides the system's; without one that is all.
func clientTrusting(caFile string) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if caFile != "" {
		roots, err := upstream.TrustCAFile(caFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}, nil
}
