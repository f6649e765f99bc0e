package oidc_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// refused checks that an ID token is refused once it is forged, with an error that tells why.
func refused(t *testing.T, forge func(*oidctest.Server, *oidctest.IDToken), why string) {
	t.Helper()
	server := newServer(t)
	provider := newProvider(server)
	mustSignIn(t, server, provider) // it is nothing else that is refused
	server.Forge(func(token *oidctest.IDToken) { forge(server, token) })
	login, err := signIn(t, server, provider)
	if login != nil {
		t.Errorf("signed in: %+v", login)
	}
	wantError(t, err, why)
	if errors.Is(err, oidc.ErrUnavailable) || errors.Is(err, oidc.ErrEnded) {
		t.Errorf("what is forged is told as something else: %v", err)
	}
}

func TestATokenWithoutASignatureIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { token.Algorithm = "none" }, `unexpected signature algorithm "none"`)
}

func TestATokenThatIsSignedWithTheClientSecretIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Algorithm, token.Key = "HS256", []byte(oidctest.ClientSecret)
	}, `unexpected signature algorithm "HS256"`)
}

func TestATokenThatIsSignedWithThePublicKeyAsASecretIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Algorithm, token.Key = "HS256", oidctest.PublicKeyPEM(token.Key)
	}, `unexpected signature algorithm "HS256"`)
}

func TestATokenOfAnAlgorithmThatTheProviderDoesNotNameIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Algorithm, token.Key = "RS256", oidctest.NewKey("RS256")
	}, `unexpected signature algorithm "RS256"`)
}

func TestATokenOfAnotherKeyIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { token.Key = oidctest.NewKey("ES256") }, "failed to verify id token signature")
}

func TestATokenOfAnUnknownKeyIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Key, token.KeyID = oidctest.NewKey("ES256"), "unknown"
	}, "failed to verify id token signature")
}

func TestATokenOfAnotherIssuerIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { token.Claims["iss"] = "https://other.test/" }, "issued by a different provider")
}

func TestATokenWhoseIssuerDiffersFromTheDiscoveredOneByASlashIsRefused(t *testing.T) {
	refused(t, func(server *oidctest.Server, token *oidctest.IDToken) {
		token.Claims["iss"] = strings.TrimSuffix(server.Issuer(), "/")
	}, "issued by a different provider")
}

func TestATokenForAnotherClientIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { token.Claims["aud"] = "other" }, "expected audience")
}

func TestATokenForNobodyIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { delete(token.Claims, "aud") }, "expected audience")
}

func TestATokenForSeveralClientsThatNamesNoneIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Claims["aud"] = []string{oidctest.ClientID, "other"}
	}, "for several clients")
}

func TestATokenForSeveralClientsThatNamesAnotherIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Claims["aud"], token.Claims["azp"] = []string{oidctest.ClientID, "other"}, "other"
	}, `another client, "other"`)
}

func TestATokenForSeveralClientsThatNamesThisOneIsTaken(t *testing.T) {
	server := newServer(t)
	server.Forge(func(token *oidctest.IDToken) {
		token.Claims["aud"], token.Claims["azp"] = []string{"other", oidctest.ClientID}, oidctest.ClientID
	})
	mustSignIn(t, server, newProvider(server))
}

func TestATokenThatNamesAPartyInNoTextIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { token.Claims["azp"] = []string{oidctest.ClientID} }, "azp is no text")
}

func TestAnExpiredTokenIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Claims["exp"] = time.Now().Add(-time.Minute).Unix()
	}, "token is expired")
}

func TestATokenThatNeverExpiresIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { delete(token.Claims, "exp") }, "token is expired")
}

func TestATokenOfTheFutureIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Claims["iat"] = time.Now().Add(10 * time.Minute).Unix()
		token.Claims["exp"] = time.Now().Add(20 * time.Minute).Unix()
	}, "it is of the future")
}

func TestATokenThatIsNotValidYetIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Claims["nbf"] = time.Now().Add(10 * time.Minute).Unix()
	}, "before the nbf")
}

func TestATokenOfAProviderWhoseClockIsSlightlyFastIsTaken(t *testing.T) {
	server := newServer(t)
	server.Forge(func(token *oidctest.IDToken) { token.Claims["iat"] = time.Now().Add(time.Minute).Unix() })
	mustSignIn(t, server, newProvider(server))
}

func TestATokenOfNoTimeIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { delete(token.Claims, "iat") }, "iat is missing")
}

func TestATokenOfAnotherAttemptIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { token.Claims["nonce"] = "another" }, "another attempt")
}

func TestATokenOfNoAttemptIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { delete(token.Claims, "nonce") }, "another attempt")
}

func TestAnAttemptWithoutANonceFitsNoToken(t *testing.T) {
	server := newServer(t)
	server.Forge(func(token *oidctest.IDToken) { delete(token.Claims, "nonce") })
	provider := newProvider(server)
	attempt := oidc.NewAttempt()
	target, err := provider.AuthURL(t.Context(), callback, attempt)
	if err != nil {
		t.Fatal(err)
	}
	attempt.Nonce = ""
	_, err = provider.Exchange(t.Context(), callback, server.Authorize(t, target).Get("code"), attempt)
	wantError(t, err, "another attempt")
}

func TestATokenThatCameWithAnotherAccessTokenIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { token.Claims["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" }, "access token that is not its own")
}

func TestATokenThatSaysNothingOfTheAccessTokenIsTaken(t *testing.T) {
	server := newServer(t)
	server.Forge(func(token *oidctest.IDToken) { delete(token.Claims, "at_hash") })
	mustSignIn(t, server, newProvider(server))
}

func TestATokenAboutNobodyIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) { delete(token.Claims, "sub") }, "sub must have")
}

func TestATokenAboutTooLongASubjectIsRefused(t *testing.T) {
	refused(t, func(_ *oidctest.Server, token *oidctest.IDToken) {
		token.Claims["sub"] = strings.Repeat("s", 256)
	}, "sub must have")
}

func TestACodeOfAnotherVerifierIsRefused(t *testing.T) {
	server := newServer(t)
	provider := newProvider(server)
	attempt := oidc.NewAttempt()
	target, err := provider.AuthURL(t.Context(), callback, attempt)
	if err != nil {
		t.Fatal(err)
	}
	attempt.Verifier = oidc.NewAttempt().Verifier
	_, err = provider.Exchange(t.Context(), callback, server.Authorize(t, target).Get("code"), attempt)
	wantError(t, err, "invalid_grant: the code_verifier is another")
	if errors.Is(err, oidc.ErrEnded) {
		t.Errorf("a failed sign-in ends one: %v", err)
	}
}

func TestUserinfoAboutSomebodyElseIsRefused(t *testing.T) {
	for name, change := range map[string]func(oidctest.Claims){
		"another":     func(said oidctest.Claims) { said["sub"] = "id-mallory" },
		"nobody":      func(said oidctest.Claims) { delete(said, "sub") },
		"no text":     func(said oidctest.Claims) { said["sub"] = 1 },
		"other cases": func(said oidctest.Claims) { said["SUB"], said["sub"] = said["sub"], "id-mallory" },
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			server.Forge(func(token *oidctest.IDToken) { delete(token.Claims, "groups") })
			server.ChangeUserinfo(change)
			_, err := signIn(t, server, newProvider(server))
			wantError(t, err, "userinfo is about somebody else")
		})
	}
}
