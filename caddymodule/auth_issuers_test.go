package caddymodule_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/eblume/caddy-registry/authn"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// claims are what a token says.
type claims map[string]any

// sign returns the token that a key signs.
func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, id string, says claims) string {
	t.Helper()
	options := new(jose.SignerOptions).WithType("JWT").WithHeader("kid", id)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(map[string]any(says)).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// forge is who signs the tokens of CI jobs.
type forge struct {
	*httptest.Server
	t   *testing.T
	key *ecdsa.PrivateKey
}

func startForge(t *testing.T) *forge {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{t: t, key: key}
	mux := http.NewServeMux()
	answer := func(path string, what func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(what()) // the client may be gone
		})
	}
	answer("/.well-known/openid-configuration", func() any {
		return map[string]any{"issuer": f.URL, "jwks_uri": f.URL + "/keys"}
	})
	answer("/keys", func() any {
		return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}}
	})
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

// option returns the option of the workload identity whose issuer it is.
func (f *forge) option() string {
	return "workload_identity ci {\nissuer " + f.URL + "\naudience registry.example\nmatch repository eblume/*\nuser ci:{claim.repository}\ngroups artifact-workloads\n}\n"
}

// jobToken returns the token of a job, which says something else too.
func (f *forge) jobToken(repository string, more claims) string {
	f.t.Helper()
	now := time.Now()
	says := claims{
		"iss": f.URL, "aud": "registry.example", "sub": "job", "repository": repository,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
	maps.Copy(says, more)
	return sign(f.t, jose.ES256, f.key, "k", says)
}

// signingKey is the key that a registry signs its tokens with.
type signingKey struct {
	t       *testing.T
	private ed25519.PrivateKey
	id      string
}

// signingKey returns the site's, for which the server is stopped and started again.
func (g *guarded) signingKey() signingKey {
	g.t.Helper()
	g.token(nil) // there is none before the first
	if err := caddy.Stop(); err != nil {
		g.t.Fatal(err)
	}
	ctx := context.Background()
	database, err := sqlite.Open(ctx, filepath.Join(g.path("registry"), "registry.db"), sqlite.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	keys, err := storage.NewAccounts(database).SigningKeys(ctx)
	if err != nil || len(keys) != 1 {
		g.t.Fatalf("%d signing keys: %v", len(keys), err)
	}
	if err := database.Close(); err != nil {
		g.t.Fatal(err)
	}
	secret, err := os.ReadFile(filepath.Join(g.path("caddy"), "registry_secrets", "seal.key"))
	if err != nil {
		g.t.Fatal(err)
	}
	sealer, err := authn.NewSealer(secret)
	if err != nil {
		g.t.Fatal(err)
	}
	seed, err := sealer.Open(keys[0].Sealed, "signing key")
	if err != nil {
		g.t.Fatal(err)
	}
	g.run(g.options)
	return signingKey{g.t, ed25519.NewKeyFromSeed(seed), keys[0].ID}
}

// changed returns a token of the site as it would be if it said something else, signed as
// the site signs. nil takes a claim away.
func (k signingKey) changed(token string, says claims) string {
	k.t.Helper()
	return sign(k.t, jose.EdDSA, k.private, k.id, changedClaims(k.t, token, says))
}

func changedClaims(t *testing.T, token string, says claims) claims {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	changed := make(claims)
	if err := parsed.UnsafeClaimsWithoutVerification(&changed); err != nil {
		t.Fatal(err)
	}
	maps.Copy(changed, says)
	maps.DeleteFunc(changed, func(_ string, value any) bool { return value == nil })
	return changed
}
