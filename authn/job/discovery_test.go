package job_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/eblume/caddy-registry/authn/job"
)

func TestKeysAtAURLAreReadWithoutDiscovery(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		const cluster = "https://kubernetes.default.svc.cluster.local"
		config := ci.config()
		config.Issuer, config.JWKSURL = cluster, "https://forge.example.com"+keysPath
		verifier := newVerifier(t, config)
		accept(t, verifier, sign(t, oldKey, jobClaims(claims{"iss": cluster})))
		if discoveries, keys := ci.requests(); discoveries != 0 || keys != 1 {
			t.Errorf("%d discoveries, %d requests for keys", discoveries, keys)
		}
		if verifier.Issued(sign(t, oldKey, jobClaims(claims{"iss": cluster + "/"}))) {
			t.Error("another issuer's token is seen as this one's")
		}
	})
}

func TestOnlyASlashAtTheEndOfTheIssuerMayDiffer(t *testing.T) {
	for _, test := range []struct {
		configured, discovered, claimed string
		want                            string
	}{
		{forge, forge, forge, ""},
		{forge, forge + "/", forge + "/", ""},
		{forge, forge + "/", forge, ""},
		{forge + "/", forge, forge, ""},
		{forge + "/", forge, forge + "/", ""},
		{forge, forge, forge + "/", "its issuer is"},
		{forge + "/", forge + "/", forge, "its issuer is"},
		{forge, forge + "//", forge, "cannot be read now"},
		{forge, forge + "/x", forge, "cannot be read now"},
		{forge, strings.ToUpper(forge), forge, "cannot be read now"},
		{forge, "", forge, "cannot be read now"},
	} {
		ci := newIssuer(oldKey)
		ci.document["issuer"] = test.discovered
		config := ci.config()
		config.Issuer = test.configured
		verifier, token := newVerifier(t, config), sign(t, oldKey, jobClaims(claims{"iss": test.claimed}))
		if test.want == "" {
			accept(t, verifier, token)
		} else if err := refuse(t, verifier, token, test.want); errors.Is(err, job.ErrUnavailable) == errors.Is(err, job.ErrNoMatch) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestAnswersThatAreNoneAreRefused(t *testing.T) {
	text := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	huge := `{"keys":[],"x":"` + strings.Repeat("x", 1<<20) + `"}`
	for _, test := range []struct {
		path, logged string
		answer       http.HandlerFunc
	}{
		{discoveryPath, "404 Not Found", http.NotFound},
		{discoveryPath, "500 Internal", status(http.StatusInternalServerError)},
		{discoveryPath, "204 No Content", status(http.StatusNoContent)},
		{discoveryPath, "invalid character", text("<html>Sign in</html>")},
		{discoveryPath, "no jwks_uri", text(`{"issuer":"` + forge + `"}`)},
		{discoveryPath, "without TLS", text(`{"issuer":"` + forge + `","jwks_uri":"http://forge.example.com/keys"}`)},
		{discoveryPath, "another issuer", text(`{"issuer":"https://evil.example.com","jwks_uri":"https://forge.example.com/keys"}`)},
		{discoveryPath, "over 1048576 bytes", text(huge)},
		{keysPath, "401 Unauthorized", status(http.StatusUnauthorized)},
		{keysPath, "has no keys", text(`{"error":"later"}`)},
		{keysPath, "invalid character", text(`{"keys":[]} trailing`)},
		{keysPath, "cannot unmarshal", text(`{"keys":"none"}`)},
		{keysPath, "over 1048576 bytes", text(huge)},
	} {
		ci := newIssuer(oldKey)
		ci.answers[test.path] = test.answer
		if err := refuse(t, ci.verifier(t), sign(t, oldKey, jobClaims(nil)), "cannot be read now"); !errors.Is(err, job.ErrUnavailable) {
			t.Error(err)
		}
		if log := ci.log.String(); !strings.Contains(log, test.logged) || !strings.Contains(log, "workload_identity=forgejo") {
			t.Errorf("%s: logged %s", test.logged, log)
		}
	}
}

func TestKeysThatAreNotUnderstoodAreLeftOut(t *testing.T) {
	ci := newIssuer()
	ci.set(func() {
		for _, key := range []string{
			`{"kty":"OKP","crv":"Ed448","x":"AAAA","kid":"ed448"}`, `{"kty":"AKP","alg":"ML-DSA-65","pub":"AAAA"}`, `{"kty":"EC","crv":"secp256k1","alg":"ES256K"}`,
			`{"kty":"RSA"}`, `{}`, `5`, `null`, `"x"`, `{"kty":"oct","k":"c2VjcmV0"}`,
		} {
			ci.keys = append(ci.keys, json.RawMessage(key))
		}
		ci.keys = append(ci.keys, oldKey.Public())
	})
	accept(t, ci.verifier(t), sign(t, oldKey, jobClaims(nil)))
}

// A private key that is listed by mistake is everybody's.
func TestAPrivateKeyThatIsListedIsNotUsed(t *testing.T) {
	ci := newIssuer()
	ci.set(func() { ci.keys = append(ci.keys, oldKey) })
	refuse(t, ci.verifier(t), sign(t, oldKey, jobClaims(nil)), "none of the issuer's keys")
}

func TestKeysThatMovedAreFound(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		accept(t, verifier, sign(t, oldKey, jobClaims(nil)))
		ci.set(func() {
			moved := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{newKey.Public()}}
			ci.document["jwks_uri"] = "https://forge.example.com/moved"
			ci.answers[keysPath] = http.NotFound
			ci.answers["/moved"] = func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(moved) }
		})
		time.Sleep(time.Hour)
		accept(t, verifier, sign(t, oldKey, jobClaims(nil))) // by keys that are known
		time.Sleep(3 * time.Second)
		accept(t, verifier, sign(t, newKey, jobClaims(nil)))
	})
}
