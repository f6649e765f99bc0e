package caddymodule_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// refusesToken runs a registry and checks that it takes its own token, but not what forge
// makes of it.
func refusesToken(t *testing.T, says string, forge func(k signingKey, token string) string) {
	t.Helper()
	g := runGuarded(t, "policy ** {\nuser ci read create\n}")
	key := g.key("ci")
	signs := g.signingKey()
	token := g.token(basic("ci", key), "repository:team/app:pull,push")
	forged := forge(signs, token)
	if forged == token {
		t.Fatal("the token is not forged")
	}
	for name, text := range map[string]string{"its own": token, "its own, signed again": signs.changed(token, nil)} {
		if a := g.send(bearer(text), http.MethodGet, "/v2/team/app/tags/list"); a.status != http.StatusNotFound {
			t.Fatalf("%s: %d %s", name, a.status, a.body)
		}
	}
	for path, method := range pushRequests("team/app", "") {
		a := g.send(bearer(forged), method, path, []byte(emptyIndex)...)
		if a.refusal() != "401 UNAUTHORIZED" || !strings.Contains(a.message(), says) || !strings.Contains(a.header.Get("WWW-Authenticate"), `error="invalid_token"`) {
			t.Errorf("%s %s: %d, %q, %s", method, path, a.status, a.header.Get("WWW-Authenticate"), a.body)
		}
	}
	if a := g.send(basic("ci", forged), http.MethodGet, "/v2/"); a.status != http.StatusUnauthorized {
		t.Errorf("as a password: %d %s", a.status, a.body)
	}
	if a := g.open.get("/v2/_catalog"); strings.TrimSpace(a.body) != `{"repositories":[]}` {
		t.Errorf("something was pushed: %s", a.body)
	}
}

func strangeKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func TestATokenOfAnotherKeyIsRefused(t *testing.T) {
	refusesToken(t, "not made by this registry", func(k signingKey, token string) string {
		return sign(t, jose.EdDSA, strangeKey(t), k.id, changedClaims(t, token, nil))
	})
}

func TestATokenOfAnUnknownKeyIsRefused(t *testing.T) {
	refusesToken(t, "not made by this registry", func(_ signingKey, token string) string {
		return sign(t, jose.EdDSA, strangeKey(t), "another", changedClaims(t, token, nil))
	})
}

func TestATokenWithoutASignatureIsRefused(t *testing.T) {
	refusesToken(t, "", func(_ signingKey, token string) string {
		content := strings.Split(token, ".")[1]
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + content + "."
	})
}

func TestATokenWhoseSignatureIsAnHMACOfThePublicKeyIsRefused(t *testing.T) {
	refusesToken(t, "", func(k signingKey, token string) string {
		return sign(t, jose.HS256, []byte(k.private.Public().(ed25519.PublicKey)), k.id, changedClaims(t, token, nil))
	})
}

func TestATokenWhoseClaimsWereChangedIsRefused(t *testing.T) {
	refusesToken(t, "not made by this registry", func(_ signingKey, token string) string {
		parts := strings.Split(token, ".")
		content, err := json.Marshal(changedClaims(t, token, claims{"sub": "root"}))
		if err != nil {
			t.Fatal(err)
		}
		parts[1] = base64.RawURLEncoding.EncodeToString(content)
		return strings.Join(parts, ".")
	})
}

func TestATokenForAnotherAudienceIsRefused(t *testing.T) {
	refusesToken(t, "not made by this registry", func(k signingKey, token string) string {
		return k.changed(token, claims{"aud": []string{"another-registry"}})
	})
}

func TestATokenOfAnotherIssuerIsRefused(t *testing.T) {
	refusesToken(t, "", func(k signingKey, token string) string {
		return k.changed(token, claims{"iss": "another-registry"})
	})
}

func TestAnExpiredTokenIsRefused(t *testing.T) {
	refusesToken(t, "expired", func(k signingKey, token string) string {
		past := time.Now().Add(-time.Second)
		return k.changed(token, claims{"exp": past.Unix(), "iat": past.Add(-time.Minute).Unix(), "nbf": past.Add(-time.Minute).Unix()})
	})
}

func TestATokenOfTheFutureIsRefused(t *testing.T) {
	refusesToken(t, "future", func(k signingKey, token string) string {
		future := time.Now().Add(10 * time.Minute)
		return k.changed(token, claims{"exp": future.Add(time.Minute).Unix(), "iat": future.Unix(), "nbf": future.Unix()})
	})
}

func TestATokenThatNeverExpiresIsRefused(t *testing.T) {
	refusesToken(t, "not made by this registry", func(k signingKey, token string) string {
		return k.changed(token, claims{"exp": nil})
	})
}

func TestATokenForAKeyThatIsGoneIsRefused(t *testing.T) {
	refusesToken(t, "gone", func(k signingKey, token string) string {
		return k.changed(token, claims{"key": "00000000-0000-4000-8000-000000000000", "sub": "root"})
	})
}

// TestAForgedTokenOfAJobIsRefused has the tokens of CI jobs, which another issuer signs.
func TestAForgedTokenOfAJobIsRefused(t *testing.T) {
	jobs, stranger := startForge(t), startForge(t)
	g := runGuarded(t, jobs.option()+"policy ** {\ngroup artifact-workloads read create\n}")
	now := time.Now()
	right := jobs.jobToken("eblume/app", nil)
	content := strings.Split(right, ".")[1]
	says := func(more claims) claims {
		all := claims{
			"iss": jobs.URL, "aud": "registry.example", "repository": "eblume/app", "sub": "job",
			"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		}
		for name, value := range more {
			all[name] = value
		}
		return all
	}
	public, err := jose.JSONWebKey{Key: jobs.key.Public(), KeyID: "k"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"of another key":            sign(t, jose.ES256, stranger.key, "k", says(nil)),
		"without a signature":       base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k"}`)) + "." + content + ".",
		"an HMAC of the public key": sign(t, jose.HS256, public, "k", says(nil)),
		"of another issuer":         stranger.jobToken("eblume/app", nil),
		"for another audience":      jobs.jobToken("eblume/app", claims{"aud": "another.example"}),
		"without an audience":       jobs.jobToken("eblume/app", claims{"aud": []string{}}),
		"expired":                   jobs.jobToken("eblume/app", claims{"exp": now.Add(-time.Hour).Unix()}),
		"of the future":             jobs.jobToken("eblume/app", claims{"nbf": now.Add(time.Hour).Unix(), "iat": now.Add(time.Hour).Unix(), "exp": now.Add(2 * time.Hour).Unix()}),
		"of another job":            jobs.jobToken("mallory/app", nil),
		"below a job's name":        jobs.jobToken("eblume/app/more", nil),
	} {
		for form, header := range map[string]http.Header{"Bearer": bearer(token), "Basic": basic("job", token)} {
			a := g.send(header, http.MethodPut, "/v2/team/app/manifests/v1", []byte(emptyIndex)...)
			if a.refusal() != "401 UNAUTHORIZED" {
				t.Errorf("%s, as %s: %d %s", name, form, a.status, a.body)
			}
		}
	}
	if a := g.open.get("/v2/_catalog"); strings.TrimSpace(a.body) != `{"repositories":[]}` {
		t.Errorf("something was pushed: %s", a.body)
	}
	if a := g.send(basic("job", right), http.MethodPut, "/v2/team/app/manifests/v1", []byte(emptyIndex)...); a.status != http.StatusCreated {
		t.Errorf("the right one: %d %s", a.status, a.body)
	}
}

// TestAKeyThatEndsTakesItsTokensAlong has a token that would last for minutes more.
func TestAKeyThatEndsTakesItsTokensAlong(t *testing.T) {
	g := runGuarded(t, "policy ** {\nuser ci read create\n}")
	key := g.key("ci")
	token := g.token(basic("ci", key), "repository:team/app:pull,push")
	var keys []struct{ ID string }
	out, err := g.command("apikey", "list", "--json")
	if err != nil || json.Unmarshal([]byte(out), &keys) != nil || len(keys) != 1 {
		t.Fatalf("%v, %s", err, out)
	}
	if a := g.send(bearer(token), http.MethodPost, "/v2/team/app/blobs/uploads/"); a.status != http.StatusAccepted {
		t.Fatalf("before: %d %s", a.status, a.body)
	}
	if _, err := g.command("apikey", "revoke", keys[0].ID); err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]http.Header{"the token": bearer(token), "the key": basic("ci", key)} {
		a := g.send(header, http.MethodPost, "/v2/team/app/blobs/uploads/")
		if a.refusal() != "401 UNAUTHORIZED" || !strings.Contains(a.message(), "revoked") {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}
