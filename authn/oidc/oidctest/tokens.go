package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// IDToken is an ID token that is not signed yet.
type IDToken struct {
	Claims Claims
	// Algorithm is that of the header, also "none" or one of HMAC. Key fits it: a private
	// key, or bytes.
	Algorithm string
	Key       any
	KeyID     string
}

type signingKey struct {
	id        string
	algorithm jose.SignatureAlgorithm
	private   crypto.Signer
}

// RotateKey has ID tokens signed with a new key from now on. The old one is forgotten.
// The algorithm is RS256, ES256 or EdDSA.
func (s *Server) RotateKey(algorithm string) {
	key := signingKey{rand.Text(), jose.SignatureAlgorithm(algorithm), NewKey(algorithm)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

// NewKey returns a key that is not the provider's.
func NewKey(algorithm string) crypto.Signer {
	var key crypto.Signer
	var err error
	switch algorithm {
	case "RS256":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	must(err)
	return key
}

// PublicKeyPEM returns the public key of a private one as it may be printed.
func PublicKeyPEM(private any) []byte {
	content, err := x509.MarshalPKIXPublicKey(private.(crypto.Signer).Public())
	must(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: content})
}

// idToken returns the ID token that comes with an access token.
func (s *Server) idToken(g grant, access string) string {
	now := time.Now()
	token := &IDToken{
		Claims: Claims{
			"iss": s.Issuer(), "aud": ClientID, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
			"at_hash": s.key.hash(access),
		},
		Algorithm: string(s.key.algorithm), Key: s.key.private, KeyID: s.key.id,
	}
	maps.Copy(token.Claims, s.users[g.user].claims)
	if g.nonce != "" {
		token.Claims["nonce"] = g.nonce
	}
	if s.forge != nil {
		s.forge(token)
	}
	return token.sign()
}

// hash returns an access token's at_hash (OpenID Connect Core 1.0, section 3.1.3.6).
func (k signingKey) hash(access string) string {
	if k.algorithm == jose.EdDSA {
		sum := sha512.Sum512([]byte(access))
		return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
	}
	sum := sha256.Sum256([]byte(access))
	return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
}

func (t *IDToken) sign() string {
	content, err := json.Marshal(t.Claims)
	must(err)
	if t.Algorithm == "none" {
		encode := base64.RawURLEncoding.EncodeToString
		return encode([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + encode(content) + "."
	}
	key := jose.SigningKey{Algorithm: jose.SignatureAlgorithm(t.Algorithm), Key: jose.JSONWebKey{Key: t.Key, KeyID: t.KeyID}}
	signer, err := jose.NewSigner(key, new(jose.SignerOptions).WithType("JWT"))
	must(err)
	signed, err := signer.Sign(content)
	must(err)
	text, err := signed.CompactSerialize()
	must(err)
	return text
}
