package authn

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// issue returns a token of five minutes.
func issue(t *testing.T, tokens *Tokens, now time.Time) string {
	t.Helper()
	token := Token{Key: "key", Access: []Access{{"repository", "a/b", []string{"pull"}}}}
	token.Subject, token.Expiry = "alice", jwt.NewNumericDate(now.Add(TokenLifetime))
	text, err := tokens.Issue(context.Background(), token, now)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func wantToken(t *testing.T, tokens *Tokens, text string, now time.Time) {
	t.Helper()
	token, err := tokens.Verify(context.Background(), text, now)
	if err != nil || token.Subject != "alice" {
		t.Errorf("at %s: %+v, %v", now, token, err)
	}
}

func wantNoToken(t *testing.T, tokens *Tokens, text string, now time.Time, want error) {
	t.Helper()
	if token, err := tokens.Verify(context.Background(), text, now); token != nil || !errors.Is(err, want) {
		t.Errorf("at %s: %+v, %v, want %v", now, token, err, want)
	}
}

func keyIDOf(t *testing.T, text string) string {
	t.Helper()
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Headers[0].KeyID
}

func TestATokenSaysWhatItWasMadeFor(t *testing.T) {
	tokens := newSite(t).Tokens
	text := issue(t, tokens, noon)
	for range 2 { // the second time it is remembered
		token, err := tokens.Verify(context.Background(), text, noon)
		if err != nil || token.Subject != "alice" || token.Key != "key" || token.Job != "" || token.ID == "" || !token.Audience.Contains("caddy-registry") {
			t.Fatalf("%+v, %v", token, err)
		}
		for _, test := range []struct {
			kind, name, action string
			want               bool
		}{
			{"repository", "a/b", "pull", true},
			{"repository", "a/b", "push", false},
			{"repository", "a/b", "", false},
			{"repository", "a", "pull", false},
			{"repository", "A/b", "pull", false},
			{"registry", "a/b", "pull", false},
			{"registry", "catalog", "pull", false},
		} {
			if token.Allows(test.kind, test.name, test.action) != test.want {
				t.Errorf("%v: %v", test, !test.want)
			}
		}
	}
}

func TestATokenEndsWhenItSays(t *testing.T) {
	for name, remembered := range map[string]bool{"remembered": true, "seen for the first time": false} {
		t.Run(name, func(t *testing.T) {
			tokens := newSite(t).Tokens
			text := issue(t, tokens, noon)
			if remembered {
				wantToken(t, tokens, text, noon.Add(TokenLifetime-1))
			}
			for _, late := range []time.Duration{0, 1, time.Second, time.Hour, 24 * time.Hour} {
				wantNoToken(t, tokens, text, noon.Add(TokenLifetime+late), errTokenExpired)
			}
		})
	}
}

func TestATokenOfTheFutureIsRefused(t *testing.T) {
	tokens := newSite(t).Tokens
	text := issue(t, tokens, noon)
	wantNoToken(t, tokens, text, noon.Add(-2*time.Minute), errTokenEarly)
	wantToken(t, tokens, text, noon.Add(-30*time.Second)) // another machine's clock
}

// ours is what signs, and the payload, of a token that is right.
type ours struct {
	private ed25519.PrivateKey
	kid     string
	claims  map[string]any
}

// sign returns a token of some claims that are changed.
func (o *ours) sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, change func(claims map[string]any), headers ...jose.HeaderKey) string {
	t.Helper()
	claims := map[string]any{}
	for name, value := range o.claims {
		claims[name] = value
	}
	if change != nil {
		change(claims)
	}
	for name, value := range claims {
		if value == nil {
			delete(claims, name)
		}
	}
	options := new(jose.SignerOptions).WithType("JWT").WithHeader("kid", o.kid)
	for _, header := range headers {
		options = options.WithHeader(header, []string{string(header)})
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newOurs(t *testing.T, s *site) *ours {
	t.Helper()
	text := issue(t, s.Tokens, noon)
	keys, err := s.Accounts.SigningKeys(context.Background())
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	seed, err := s.Sealer.Open(keys[0].Sealed, forSigning)
	if err != nil {
		t.Fatal(err)
	}
	o := &ours{private: ed25519.NewKeyFromSeed(seed), kid: keyIDOf(t, text)}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err == nil {
		err = json.Unmarshal(payload, &o.claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestForgedTokensAreRefused(t *testing.T) {
	s := newSite(t)
	o := newOurs(t, s)
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name string, value any) func(map[string]any) {
		return func(claims map[string]any) { claims[name] = value }
	}
	right := o.sign(t, jose.EdDSA, o.private, nil)
	wantToken(t, s.Tokens, right, noon)
	parts := strings.Split(right, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"` + o.kid + `"}`))
	other := *o
	other.kid = "other"
	nameless := *o
	nameless.kid = ""
	public := []byte(o.private.Public().(ed25519.PublicKey))
	for _, test := range []struct {
		name, text string
		want       error
	}{
		{"another key", o.sign(t, jose.EdDSA, stranger, nil), errTokenForged},
		{"another key that it brings along", o.sign(t, jose.EdDSA, jose.JSONWebKey{Key: stranger, KeyID: o.kid}, nil), errTokenForged},
		{"another key's id", other.sign(t, jose.EdDSA, o.private, nil), errTokenForged},
		{"no key's id", nameless.sign(t, jose.EdDSA, o.private, nil), errTokenForged},
		{"no algorithm", none + "." + parts[1] + ".", errNoToken},
		{"no algorithm, and the signature", none + "." + parts[1] + "." + parts[2], errNoToken},
		{"HMAC with the public key", o.sign(t, jose.HS256, public, nil), errNoToken},
		{"RSA", o.sign(t, jose.RS256, rsaKey, nil), errNoToken},
		{"another issuer", o.sign(t, jose.EdDSA, o.private, set("iss", "other")), errNoToken},
		{"no issuer", o.sign(t, jose.EdDSA, o.private, set("iss", nil)), errNoToken},
		{"another audience", o.sign(t, jose.EdDSA, o.private, set("aud", "other")), errTokenForged},
		{"no audience", o.sign(t, jose.EdDSA, o.private, set("aud", nil)), errTokenForged},
		{"no end", o.sign(t, jose.EdDSA, o.private, set("exp", nil)), errTokenForged},
		{"expired", o.sign(t, jose.EdDSA, o.private, set("exp", noon.Unix())), errTokenExpired},
		{"of the future", o.sign(t, jose.EdDSA, o.private, set("nbf", noon.Add(time.Hour).Unix())), errTokenEarly},
		{"made in the future", o.sign(t, jose.EdDSA, o.private, set("iat", noon.Add(time.Hour).Unix())), errTokenEarly},
		{"access that is none", o.sign(t, jose.EdDSA, o.private, set("access", "all")), errTokenForged},
		{"a header that must be understood", o.sign(t, jose.EdDSA, o.private, nil, "crit"), errTokenForged},
		{"another payload", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"caddy-registry"}`)) + "." + parts[2], errTokenForged},
		{"no payload", parts[0] + ".." + parts[2], errNoToken},
		{"no signature", parts[0] + "." + parts[1] + ".", errTokenForged},
		{"half a signature", right[:len(right)-43], errTokenForged},
		{"two parts", parts[0] + "." + parts[1], errNoToken},
		{"five parts", right + ".a.b", errNoToken},
		{"huge", o.sign(t, jose.EdDSA, o.private, set("more", strings.Repeat("x", maxTokenSize))), errNoToken},
		{"nothing", "", errNoToken},
		{"dots", "..", errNoToken},
		{"JSON", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, errNoToken},
	} {
		t.Run(test.name, func(t *testing.T) { wantNoToken(t, s.Tokens, test.text, noon, test.want) })
	}
}

func TestNoCharacterOfATokenCanBeChanged(t *testing.T) {
	s := newSite(t)
	text := issue(t, s.Tokens, noon)
	for i := range text {
		// The last character of a part has bits that stand for nothing.
		if text[i] == '.' || i+1 == len(text) || text[i+1] == '.' {
			continue
		}
		changed := []byte(text)
		changed[i] = base62[(strings.IndexByte(base62, text[i])+1)%len(base62)]
		if token, err := s.Tokens.Verify(context.Background(), string(changed), noon); err == nil {
			t.Fatalf("%s became %+v", changed, token)
		}
	}
}

// Anybody can have long tokens made, and many.
func TestLongTokensAreNotRemembered(t *testing.T) {
	s := newSite(t)
	o := newOurs(t, s)
	for size, want := range map[int]int{0: 1, maxRememberedSize: 0} {
		s.Tokens.verified.Purge()
		long := o.sign(t, jose.EdDSA, o.private, func(claims map[string]any) { claims["more"] = strings.Repeat("x", size) })
		wantToken(t, s.Tokens, long, noon)
		if got := s.Tokens.verified.Len(); got != want {
			t.Errorf("%d more bytes: %d are remembered", size, got)
		}
	}
}
