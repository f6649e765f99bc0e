package job_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/glob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	forge    = "https://forge.example.com/api/actions"
	registry = "registry.example.com"

	discoveryPath = "/api/actions/.well-known/openid-configuration"
	keysPath      = "/api/actions/.well-known/keys"
)

var (
	oldKey, newKey, strangerKey = newKey256("old"), newKey256("new"), newKey256("stranger")

	rsaKey = sync.OnceValue(func() jose.JSONWebKey {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return jose.JSONWebKey{Key: key, KeyID: "rsa", Algorithm: "RS256", Use: "sig"}
	})
)

func newKey256(id string) jose.JSONWebKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return jose.JSONWebKey{Key: key, KeyID: id, Algorithm: "ES256", Use: "sig"}
}

// issuer is who signs the tokens of jobs. It answers requests without a network, so that
// time stands still meanwhile in a bubble of synctest.
type issuer struct {
	mu       sync.Mutex
	document map[string]any // of discovery
	keys     []any          // that it lists
	answers  map[string]http.HandlerFunc
	down     bool
	hangs    bool
	asked    map[string]int // by path
	log      bytes.Buffer
}

func newIssuer(keys ...jose.JSONWebKey) *issuer {
	s := &issuer{
		document: map[string]any{"issuer": forge, "jwks_uri": "https://forge.example.com" + keysPath},
		answers:  make(map[string]http.HandlerFunc), asked: make(map[string]int),
	}
	s.list(keys...)
	return s
}

// list sets the keys that are the issuer's from now on.
func (s *issuer) list(keys ...jose.JSONWebKey) {
	s.set(func() {
		s.keys = []any{}
		for _, key := range keys {
			s.keys = append(s.keys, key.Public())
		}
	})
}

// set changes the issuer.
func (s *issuer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.URL.Path]++
	answer, body := s.answers[r.URL.Path], any(nil)
	switch {
	case answer != nil:
	case r.URL.Path == discoveryPath:
		body = maps.Clone(s.document)
	case r.URL.Path == keysPath:
		body = map[string]any{"keys": s.keys}
	default:
		answer = http.NotFound
	}
	s.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // of this file
}

// RoundTrip is the network between a registry and the issuer.
func (s *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	down, hangs := s.down, s.hangs
	if down || hangs {
		s.asked[r.URL.Path]++
	}
	s.mu.Unlock()
	if down {
		return nil, errors.New("dial tcp 10.1.2.3:443: connection refused")
	}
	if hangs {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Result(), nil
}

// requests returns how often the issuer was asked for its discovery document and its keys.
func (s *issuer) requests() (discoveries, keys int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[discoveryPath], s.asked[keysPath]
}

// config is a configuration that takes the tokens of [jobClaims].
func (s *issuer) config() job.Config {
	return job.Config{
		Name: "forgejo", Issuer: forge, Audience: registry,
		Match:  []job.Match{{Claim: "repository", Values: glob.Set{"eblume/*"}}},
		User:   "ci:{claim.repository}",
		Groups: []string{"artifact-workloads"},
		Client: &http.Client{Transport: s},
		Log:    slog.New(slog.NewTextHandler(&s.log, nil)),
	}
}

func (s *issuer) verifier(t testing.TB) *job.Issuer {
	t.Helper()
	return newVerifier(t, s.config())
}

func newVerifier(t rapid.TB, config job.Config) *job.Issuer {
	t.Helper()
	verifier, err := job.NewIssuer(config)
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

type claims map[string]any

// jobClaims returns what a token of a Forgejo job says, with some claims other than they
// are; those that are nil are left out.
func jobClaims(others claims) claims {
	c := forgejoClaims()
	for name, value := range others {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

func unix(after time.Duration) int64 { return time.Now().Add(after).Unix() }

// sign returns a token as the owner of a key makes it.
func sign(t rapid.TB, key jose.JSONWebKey, c claims) string {
	t.Helper()
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return signText(t, key, nil, string(payload))
}

// signText returns a token with any payload and some more headers.
func signText(t rapid.TB, key jose.JSONWebKey, headers map[jose.HeaderKey]any, payload string) string {
	t.Helper()
	options := (&jose.SignerOptions{ExtraHeaders: headers}).WithType("JWT")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// bubble runs a test with an issuer that signs with oldKey, where time passes only when
// everybody waits.
func bubble(t *testing.T, test func(t *testing.T, ci *issuer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newIssuer(oldKey)) })
}

func accept(t testing.TB, verifier *job.Issuer, token string) *job.Identity {
	t.Helper()
	if !verifier.Issued(token) {
		t.Error("not seen as a token of the issuer")
	}
	identity, err := verifier.Verify(context.Background(), token)
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// refuse checks that a token proves nobody, and that the error says why.
func refuse(t testing.TB, verifier *job.Issuer, token, why string) error {
	t.Helper()
	identity, err := verifier.Verify(context.Background(), token)
	if err == nil || identity != nil {
		t.Fatalf("accepted as %+v", identity)
	}
	if !strings.Contains(err.Error(), why) {
		t.Errorf("%q does not say %q", err, why)
	}
	return err
}
