package job_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/eblume/caddy-registry/authn/job"
)

// forged puts a token together that nobody signed.
func forged(header, payload, signature string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(header)) + "." + encode([]byte(payload)) + "." + encode([]byte(signature))
}

// newCertificate returns a certificate that the owner of a key made for it.
func newCertificate(t *testing.T, key jose.JSONWebKey) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public().Key, key.Key)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func payloadOf(t *testing.T, c claims) string {
	t.Helper()
	payload, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(payload)
}

func TestATokenWithoutASignatureIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier, payload := ci.verifier(t), payloadOf(t, jobClaims(nil))
		accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
		for _, header := range []string{`{"alg":"none"}`, `{"alg":"None","kid":"old"}`, `{"alg":"NONE","kid":"old"}`, `{"alg":"","kid":"old"}`, `{"kid":"old"}`, `{"alg":null,"kid":"old"}`} {
			for _, signature := range []string{"", "x"} {
				refuse(t, verifier, forged(header, payload, signature), "")
			}
		}
		refuse(t, verifier, forged(`{"alg":"ES256","kid":"old"}`, payload, strings.Repeat("\x00", 64)), "none of the issuer's keys")
	})
}

func TestATokenSignedWithThePublicKeyAsASecretIsRefused(t *testing.T) {
	key := rsaKey()
	public := key.Public()
	der, err := x509.MarshalPKIXPublicKey(public.Key)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := public.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "JWK": jwk, "N": public.Key.(*rsa.PublicKey).N.Bytes(),
	} {
		for _, algorithm := range []string{"HS256", "HS384", "HS512"} {
			token := sign(t, jose.JSONWebKey{Key: secret, KeyID: "rsa", Algorithm: algorithm}, jobClaims(nil))
			if err := refuse(t, newIssuer(rsaKey()).verifier(t), token, "unexpected signature algorithm"); errors.Is(err, job.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestASecretThatTheIssuerListsSignsNothing(t *testing.T) {
	secret := jose.JSONWebKey{Key: []byte(strings.Repeat("secret", 8)), KeyID: "shared", Algorithm: "HS256", Use: "sig"}
	ci := newIssuer()
	ci.set(func() { ci.keys = append(ci.keys, secret) })
	refuse(t, ci.verifier(t), sign(t, secret, jobClaims(nil)), "unexpected signature algorithm")
}

func TestATokenOfAnotherKeyWithTheSameNameIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier, another := ci.verifier(t), strangerKey
		another.KeyID = oldKey.KeyID
		refuse(t, verifier, sign(t, another, jobClaims(nil)), "none of the issuer's keys")
		accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
		refuse(t, verifier, sign(t, another, jobClaims(nil)), "none of the issuer's keys")
		another.KeyID = ""
		refuse(t, verifier, sign(t, another, jobClaims(nil)), "none of the issuer's keys")
	})
}

func TestATokenOfAnotherKeyThanItNamesIsRefused(t *testing.T) {
	ci, another := newIssuer(oldKey, newKey), newKey
	another.KeyID = oldKey.KeyID
	refuse(t, ci.verifier(t), sign(t, another, jobClaims(nil)), "none of the issuer's keys")
}

func TestKeysThatATokenBringsAlongAreNotUsed(t *testing.T) {
	const elsewhere = "https://evil.example.com/keys"
	public := strangerKey.Public()
	for name, headers := range map[string]map[jose.HeaderKey]any{
		"jwk": {"jwk": public}, "jku": {"jku": elsewhere}, "x5u": {"x5u": elsewhere},
		"all": {"jwk": public, "jku": elsewhere, "x5u": elsewhere, "kid": "old"}, "iss": {"iss": "https://evil.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, ci *issuer) {
				verifier := ci.verifier(t)
				for _, id := range []string{"stranger", "old", ""} {
					key := strangerKey
					key.KeyID = id
					refuse(t, verifier, signText(t, key, headers, payloadOf(t, jobClaims(nil))), "none of the issuer's keys")
				}
				accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
				if discoveries, keys := ci.requests(); len(ci.asked) != 2 || discoveries != 1 {
					t.Errorf("asked for %v, and %d times for keys", ci.asked, keys)
				}
			})
		})
	}
}

func TestACertificateInATokenIsNotUsed(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		certificate := base64.StdEncoding.EncodeToString(newCertificate(t, strangerKey))
		headers := map[jose.HeaderKey]any{"x5c": []string{certificate}}
		refuse(t, ci.verifier(t), signText(t, strangerKey, headers, payloadOf(t, jobClaims(nil))), "none of the issuer's keys")
	})
}

func TestAKeyOfAnotherUseOrAlgorithmSignsNothing(t *testing.T) {
	for name, change := range map[string]func(*jose.JSONWebKey){
		"encryption": func(key *jose.JSONWebKey) { key.Use = "enc" },
		"algorithm":  func(key *jose.JSONWebKey) { key.Algorithm = "RS512" },
		"unknown":    func(key *jose.JSONWebKey) { key.Algorithm = "RSA-OAEP" },
	} {
		listed := rsaKey()
		change(&listed)
		ci := newIssuer(listed)
		if err := refuse(t, ci.verifier(t), sign(t, rsaKey(), jobClaims(nil)), "none of the issuer's keys"); errors.Is(err, job.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAlteredTokenIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier, token := ci.verifier(t), sign(t, oldKey, jobClaims(nil))
		accept(t, verifier, token)
		header, rest, _ := strings.Cut(token, ".")
		_, signature, _ := strings.Cut(rest, ".")
		decode := base64.RawURLEncoding.DecodeString
		raw, err := decode(signature)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := decode(header)
		if err != nil {
			t.Fatal(err)
		}
		other := payloadOf(t, jobClaims(claims{"repository": "eblume/other"}))
		refuse(t, verifier, forged(string(decoded), other, string(raw)), "none of the issuer's keys")
		raw[10] ^= 1
		refuse(t, verifier, forged(string(decoded), payloadOf(t, jobClaims(nil)), string(raw)), "none of the issuer's keys")
	})
}

func TestOtherWritingsOfATokenAreNone(t *testing.T) {
	verifier, token := newIssuer(oldKey).verifier(t), sign(t, oldKey, jobClaims(nil))
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	for _, text := range []string{
		signed.FullSerialize(), token + ".", token + "." + parts[2] + ".x", "." + token, " " + token, token + "\n", parts[0] + "." + parts[1] + "\n." + parts[2],
		parts[0] + ".." + parts[2], parts[0] + "." + parts[1], parts[0] + "." + parts[1] + ".", parts[0] + "." + parts[1] + "=." + parts[2], "", "..", "crk_x", parts[1],
	} {
		if verifier.Issued(text) {
			t.Errorf("%q is seen as a token", text)
		}
		refuse(t, verifier, text, "no token of this issuer")
	}
}
