package authn

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// SealKeySize is the length of a Sealer's key in bytes.
const SealKeySize = 32

var errSealed = errors.New("cannot be decrypted: the key in Caddy's storage is another one")

// Sealer encrypts what is secret before it is stored with the registry's facts, so that
// these, and their backups, are worth nothing without the key.
type Sealer struct{ aead cipher.AEAD }

// NewSealer returns the sealer with a key of SealKeySize bytes.
func NewSealer(key []byte) (*Sealer, error) {
	if len(key) != SealKeySize {
		return nil, fmt.Errorf("key has %d bytes, not %d", len(key), SealKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Sealer{aead}, nil
}

// Seal encrypts a secret. What it is for must be said again to open it.
func (s *Sealer) Seal(secret []byte, purpose string) []byte {
	return s.aead.Seal(nil, nil, secret, []byte(purpose))
}

// Open decrypts what Seal returned.
func (s *Sealer) Open(sealed []byte, purpose string) ([]byte, error) {
	secret, err := s.aead.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, errSealed
	}
	return secret, nil
}

// sealText is Seal for a secret that may be missing, which stays so.
func (s *Sealer) sealText(secret, purpose string) []byte {
	if secret == "" {
		return nil
	}
	return s.Seal([]byte(secret), purpose)
}

// newSecret returns a random text that nobody can guess.
func newSecret() string { return rand.Text() + rand.Text() }

// What secrets are for.
const (
	forSigning = "signing key"
	forRefresh = "refresh token"
	forLogout  = "ID token"
	forLogin   = "login"
)
