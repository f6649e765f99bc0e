package job_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/eblume/caddy-registry/authn/job"
)

func TestATokenForAnotherAudienceIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		for _, audience := range []any{"other", registry + ".evil.com", strings.ToUpper(registry), "https://" + registry, []string{"a", "b"}, []string{}, "", nil} {
			err := refuse(t, verifier, sign(t, oldKey, jobClaims(claims{"aud": audience})), "audience is "+registry)
			if !errors.Is(err, job.ErrNoMatch) {
				t.Errorf("%v: %v", audience, err)
			}
		}
		for _, audience := range []any{5, map[string]any{registry: registry}, []any{registry, 5}} {
			refuse(t, verifier, sign(t, oldKey, jobClaims(claims{"aud": audience})), "cannot be read")
		}
	})
}

func TestOneOfSeveralAudiencesIsEnough(t *testing.T) {
	verifier := newIssuer(oldKey).verifier(t)
	for _, audience := range []any{registry, []string{registry}, []string{"other", registry}} {
		accept(t, verifier, sign(t, oldKey, jobClaims(claims{"aud": audience})))
	}
}

func TestAnExpiredTokenIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		for _, expired := range []any{unix(0), unix(-time.Second), unix(-time.Hour), 0, -1, 1.5} {
			refuse(t, verifier, sign(t, oldKey, jobClaims(claims{"exp": expired})), "expired")
		}
		// Also if it is remembered.
		token := sign(t, oldKey, jobClaims(claims{"exp": unix(time.Minute)}))
		accept(t, verifier, token)
		time.Sleep(time.Minute - 1)
		accept(t, verifier, token)
		time.Sleep(time.Nanosecond)
		refuse(t, verifier, token, "expired")
	})
}

func TestATokenOfTheFutureIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		for _, claim := range []string{"nbf", "iat"} {
			ahead := sign(t, oldKey, jobClaims(claims{claim: unix(61 * time.Second)}))
			refuse(t, verifier, ahead, "future")
			accept(t, verifier, sign(t, oldKey, jobClaims(claims{claim: unix(time.Minute)}))) // clocks differ
			accept(t, verifier, sign(t, oldKey, jobClaims(claims{claim: nil})))
			time.Sleep(time.Second)
			accept(t, verifier, ahead)
			refuse(t, verifier, sign(t, oldKey, jobClaims(claims{claim: int64(1) << 61})), "future")
			for _, bad := range []any{"now", "1", 1e300, []int{1}} {
				refuse(t, verifier, sign(t, oldKey, jobClaims(claims{claim: bad})), "cannot be read")
			}
		}
	})
}

func TestATokenWithoutAnEndIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		refuse(t, verifier, sign(t, oldKey, jobClaims(claims{"exp": nil})), "does not say when it expires")
		for _, null := range []string{`"exp":null`, `"EXP":99999999999`, `"Exp":99999999999`} {
			payload := `{"iss":"` + forge + `","aud":"` + registry + `","repository":"eblume/app",` + null + `}`
			refuse(t, verifier, signText(t, oldKey, nil, payload), "does not say when it expires")
		}
		for _, bad := range []any{"99999999999", 1e300, true, []int64{unix(time.Hour)}} {
			refuse(t, verifier, sign(t, oldKey, jobClaims(claims{"exp": bad})), "cannot be read")
		}
	})
}

func TestATokenOfAnotherIssuerIsRefused(t *testing.T) {
	ci := newIssuer(oldKey)
	verifier := ci.verifier(t)
	for _, other := range []any{
		"https://evil.example.com", forge + "//", forge + "/x", strings.ToUpper(forge), forge + "?x", "http" + strings.TrimPrefix(forge, "https"), "", nil, 5, []string{forge},
	} {
		token := sign(t, oldKey, jobClaims(claims{"iss": other}))
		if verifier.Issued(token) {
			t.Errorf("%v is seen as the issuer", other)
		}
		refuse(t, verifier, token, "no token of this issuer")
	}
	if discoveries, keys := ci.requests(); discoveries+keys != 0 {
		t.Error("the issuer was asked about another's token")
	}
}

func TestNestedClaimsDoNotMatch(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		config := ci.config()
		config.Match[0].Claim = "kubernetes.io.namespace"
		verifier := newVerifier(t, config)
		for _, c := range []claims{
			{"kubernetes.io": map[string]any{"namespace": "eblume/app"}},
			{"kubernetes": map[string]any{"io": map[string]any{"namespace": "eblume/app"}}},
			{"kubernetes.io.namespace": map[string]any{"": "eblume/app"}},
			{"kubernetes.io.namespace": `{"x":"eblume/app"}`},
		} {
			if err := refuse(t, verifier, sign(t, oldKey, jobClaims(c)), "claim kubernetes.io.namespace"); !errors.Is(err, job.ErrNoMatch) {
				t.Error(err)
			}
		}
		accept(t, verifier, sign(t, oldKey, jobClaims(claims{"kubernetes.io.namespace": "eblume/app"})))
	})
}

func TestDuplicateClaimsAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		verifier := ci.verifier(t)
		payload := payloadOf(t, jobClaims(claims{"repository": "evil/app"}))
		for _, twice := range []string{
			`,"repository":"eblume/app"}`, `,"repositor\u0079":"eblume/app"}`, `,"exp":99999999999}`, `,"aud":"` + registry + `"}`, `,"iss":"` + forge + `"}`,
		} {
			refuse(t, verifier, signText(t, oldKey, nil, strings.TrimSuffix(payload, "}")+twice), "")
		}
		for _, other := range []string{`,"Repository":"eblume/app"}`, `,"REPOSITORY":"eblume/app"}`} {
			token := signText(t, oldKey, nil, strings.TrimSuffix(payload, "}")+other)
			refuse(t, verifier, token, `claim repository is "evil/app"`)
		}
		refuse(t, verifier, signText(t, oldKey, nil, payloadOf(t, jobClaims(nil))+payloadOf(t, jobClaims(nil))), "")
	})
}

func TestAHugeTokenIsRefused(t *testing.T) {
	ci := newIssuer(oldKey)
	verifier := ci.verifier(t)
	huge := sign(t, oldKey, jobClaims(claims{"filler": strings.Repeat("x", 12<<10)}))
	if verifier.Issued(huge) {
		t.Errorf("a token of %d bytes is looked at", len(huge))
	}
	refuse(t, verifier, huge, "no token of this issuer")
	refuse(t, verifier, forged(`{"alg":"ES256"}`, strings.Repeat("[", 1<<20), ""), "no token of this issuer")
	refuse(t, verifier, forged(`{"alg":"ES256"}`, `{"iss":"`+forge+`","x":`+strings.Repeat("[", 8000)+strings.Repeat("]", 8000), "x"), "no token of this issuer")
	accept(t, verifier, sign(t, oldKey, jobClaims(claims{"filler": strings.Repeat("x", 11<<10)})))
}

func TestAnEncryptedTokenIsRefused(t *testing.T) {
	ci := newIssuer(rsaKey())
	key := rsaKey()
	public := key.Public()
	encrypter, err := jose.NewEncrypter(jose.A128GCM, jose.Recipient{Algorithm: jose.RSA_OAEP, Key: public.Key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := encrypter.Encrypt([]byte(payloadOf(t, jobClaims(nil))))
	if err != nil {
		t.Fatal(err)
	}
	text, err := encrypted.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	refuse(t, ci.verifier(t), text, "no token of this issuer")
}

func TestACriticalHeaderThatIsNotUnderstoodIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		headers := map[jose.HeaderKey]any{"crit": []string{"x"}, "x": true}
		refuse(t, ci.verifier(t), signText(t, oldKey, headers, payloadOf(t, jobClaims(nil))), "none of the issuer's keys")
	})
}

// An issuer that anybody can make redirect must not make the registry forget whom it asked.
func TestARedirectedIssuerIsStillTheOneThatTokensName(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		ci.answers["/evil"] = func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"issuer":"https://evil.example.com","jwks_uri":"https://evil.example.com/keys"}`))
		}
		ci.answers[discoveryPath] = func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.example.com/evil", http.StatusFound)
		}
		err := refuse(t, ci.verifier(t), sign(t, oldKey, jobClaims(nil)), "cannot be read now")
		if !errors.Is(err, job.ErrUnavailable) {
			t.Error(err)
		}
	})
}
