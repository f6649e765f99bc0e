package oidc_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

func wantUnavailable(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, oidc.ErrUnavailable) || errors.Is(err, oidc.ErrEnded) {
		t.Errorf("error %v, want one that is ErrUnavailable", err)
	}
}

func TestAProviderIsAskedNothingUntilItIsNeeded(t *testing.T) {
	server := newServer(t)
	newProvider(server)
	if n := server.Requests(oidctest.Discovery); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAllWhoAskShareOneReading(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		slow(server)
		provider := newProvider(server)
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				if err := provider.Discover(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if err := provider.Discover(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if n := server.Requests(oidctest.Discovery); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// slow has the first reading of the discovery document take a second.
func slow(server *oidctest.Server) {
	server.Handle(oidctest.Discovery, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Second)
		server.Handle(oidctest.Discovery, nil)
		server.Answer(w, r)
	})
}

func TestWhoWaitsNoMoreDoesNotEndTheReadingOfOthers(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		slow(server)
		provider := newProvider(server)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { wantUnavailable(t, provider.Discover(ctx)) })
		synctest.Wait()
		group.Go(func() {
			if err := provider.Discover(t.Context()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		group.Wait()
	})
}

func TestAFailureIsToldForSomeSecondsAndThenTriedAgain(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		server.Handle(oidctest.Discovery, oidctest.Status(502))
		provider := newProvider(server)
		for range 3 {
			wantUnavailable(t, provider.Discover(t.Context()))
			_, err := provider.AuthURL(t.Context(), callback, oidc.NewAttempt())
			wantUnavailable(t, err)
		}
		if n := server.Requests(oidctest.Discovery); n != 1 {
			t.Errorf("%d requests at once", n)
		}
		server.Handle(oidctest.Discovery, nil)
		time.Sleep(6 * time.Second)
		mustSignIn(t, server, provider)
	})
}

func TestAProviderThatDoesNotAnswerIsWaitedForOnlyAMoment(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		server.Handle(oidctest.Discovery, oidctest.Hang)
		provider := newProvider(server)
		began := time.Now()
		wantUnavailable(t, provider.Discover(t.Context()))
		if waited := time.Since(began); waited > 5*time.Second {
			t.Errorf("waited %s", waited)
		}
		began = time.Now()
		wantUnavailable(t, provider.Discover(t.Context()))
		if waited := time.Since(began); waited > 0 {
			t.Errorf("waited %s the second time", waited)
		}
	})
}

func TestSigningOutDoesNotWaitForAProviderThatIsNotKnown(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		slow(server)
		provider := newProvider(server)
		began := time.Now()
		if target, ok := provider.EndSessionURL(t.Context(), "the.id.token", callback); ok {
			t.Errorf("%s of a provider that was not asked", target)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("waited %s", waited)
		}
		time.Sleep(2 * time.Second)
		if _, ok := provider.EndSessionURL(t.Context(), "the.id.token", callback); !ok {
			t.Error("the provider is not known later either")
		}
	})
}

func TestWhatIsKnownIsReadAgainBehindTheScenes(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		provider := newProvider(server)
		mustSignIn(t, server, provider)
		server.ChangeDiscovery(func(document map[string]any) { document["authorization_endpoint"] = "http://moved.test/authorize" })
		time.Sleep(61 * time.Minute)
		began := time.Now()
		for range 2 { // the first has it read again
			if _, err := provider.AuthURL(t.Context(), callback, oidc.NewAttempt()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("waited %s", waited)
		}
		target, err := provider.AuthURL(t.Context(), callback, oidc.NewAttempt())
		if err != nil || !strings.HasPrefix(target, "http://moved.test/authorize?") {
			t.Errorf("%s, %v", target, err)
		}
	})
	if n := server.Requests(oidctest.Discovery); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestAnOutageIsToldButWhatIsKnownIsKept(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		provider := newProvider(server)
		mustSignIn(t, server, provider)
		server.Handle(oidctest.Discovery, oidctest.Status(503))
		for range 48 {
			time.Sleep(time.Hour)
			_ = provider.Discover(t.Context()) // has it read again
			synctest.Wait()
		}
		wantUnavailable(t, provider.Discover(t.Context()))
		mustSignIn(t, server, provider)
		server.Handle(oidctest.Discovery, nil)
		time.Sleep(time.Minute)
		_ = provider.Discover(t.Context()) // has it read again
		synctest.Wait()
		if err := provider.Discover(t.Context()); err != nil {
			t.Errorf("after the outage: %v", err)
		}
	})
}

func TestAnOutageIsLoggedOnce(t *testing.T) {
	server := newServer(t)
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		provider := newProvider(server, func(c *oidc.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		server.Handle(oidctest.Discovery, oidctest.Status(503))
		for range 5 {
			wantUnavailable(t, provider.Discover(t.Context()))
			time.Sleep(10 * time.Second)
		}
		server.Handle(oidctest.Discovery, nil)
		for range 5 {
			if err := provider.Discover(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * time.Minute)
		}
	})
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "503 Service Unavailable") {
		t.Errorf("%d warnings:\n%s", n, log.String())
	}
	if n := strings.Count(log.String(), "can be used again"); n != 1 {
		t.Errorf("%d times the end was told:\n%s", n, log.String())
	}
}

func TestADocumentThatNobodyCanSignInWithIsRefusedAndSaysWhy(t *testing.T) {
	set := func(name string, value any) func(map[string]any) {
		return func(document map[string]any) { document[name] = value }
	}
	tests := map[string]struct {
		change func(map[string]any)
		why    string
	}{
		"another issuer":       {set("issuer", "https://other.test"), `is of issuer "https://other.test", and not of "https://idp.test/application/o/registry"`},
		"a part of the issuer": {set("issuer", "https://idp.test/application/o/"), "is of issuer"},
		"two slashes":          {set("issuer", "https://idp.test/application/o/registry//"), "is of issuer"},
		"no issuer":            {set("issuer", ""), "is of issuer"},
		"no authorization":     {set("authorization_endpoint", nil), "authorization_endpoint in its discovery document: it is missing"},
		"no token endpoint":    {set("token_endpoint", nil), "token_endpoint in its discovery document: it is missing"},
		"no keys":              {set("jwks_uri", nil), "jwks_uri in its discovery document: it is missing"},
		"a script":             {set("authorization_endpoint", "javascript:alert(1)"), "no URL of a server"},
		"a script of a host":   {set("authorization_endpoint", "javascript://idp.test/%0aalert(1)"), "no URL of a server"},
		"a path":               {set("token_endpoint", "/token"), "no URL of a server"},
		"no encryption":        {set("token_endpoint", "http://idp.test/token"), "not https, though the issuer is"},
		"no encrypted logout":  {set("end_session_endpoint", "http://idp.test/end"), "not https, though the issuer is"},
		"HMACs":                {set("id_token_signing_alg_values_supported", []string{"HS256", "none"}), "signs ID tokens with HS256, none only"},
		"no JSON":              {set("issuer", 1), "not the JSON that it should be"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			server.ChangeDiscovery(func(document map[string]any) { overTLS(server, document); test.change(document) })
			err := newProvider(server, func(c *oidc.Config) { c.Issuer = "https://idp.test/application/o/registry/" }).Discover(t.Context())
			wantUnavailable(t, err)
			wantError(t, err, test.why)
		})
	}
}

// overTLS has a discovery document say that the provider is at https://idp.test.
func overTLS(server *oidctest.Server, document map[string]any) {
	for name, value := range document {
		if text, ok := value.(string); ok {
			document[name] = strings.Replace(text, server.URL(), "https://idp.test", 1)
		}
	}
}

func TestADocumentOverTLSIsTaken(t *testing.T) {
	server := newServer(t)
	server.ChangeDiscovery(func(document map[string]any) { overTLS(server, document) })
	err := newProvider(server, func(c *oidc.Config) { c.Issuer = "https://idp.test/application/o/registry" }).Discover(t.Context())
	if err != nil {
		t.Error(err)
	}
}

func TestHMACsAreRefusedAlsoOfAProviderThatNamesThem(t *testing.T) {
	server := newServer(t)
	server.ChangeDiscovery(func(document map[string]any) {
		document["id_token_signing_alg_values_supported"] = []string{"none", "HS256", "ES256"}
	})
	provider := newProvider(server)
	mustSignIn(t, server, provider)
	for _, algorithm := range []string{"none", "HS256"} {
		server.Forge(func(token *oidctest.IDToken) {
			token.Algorithm, token.Key = algorithm, []byte(oidctest.ClientSecret)
		})
		_, err := signIn(t, server, provider)
		wantError(t, err, "unexpected signature algorithm")
	}
}
