package oidc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// echo answers with all that it was sent.
func echo(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what was read is echoed
		user, password, _ := r.BasicAuth()
		said := fmt.Sprintf("%v %s %s %s", r.Form, r.Form.Encode(), user, password)
		body, err := json.Marshal(map[string]any{"error": code, "error_description": said, "also": said})
		if err != nil {
			panic(err) // strings
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(body) // the client may be gone
	}
}

func TestErrorsTellNoSecrets(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"a refusal":             echo(400, "invalid_grant"),
		"another refusal":       echo(401, "invalid_client"),
		"no OAuth error":        echo(400, ""),
		"a failure":             echo(500, "server_error"),
		"no token":              echo(200, ""),
		"a redirect":            redirectWithSecrets("http://other.test/?"),
		"a redirect to nowhere": redirectWithSecrets("http://%zz/?"),
	}
	for name, answer := range answers {
		for _, method := range []string{"client_secret_basic", "client_secret_post"} {
			t.Run(name+" "+method, func(t *testing.T) {
				server := newServer(t)
				server.ChangeDiscovery(func(document map[string]any) { document["token_endpoint_auth_methods_supported"] = []string{method} })
				server.Handle(oidctest.Token, answer)
				provider := newProvider(server)
				attempt := oidc.NewAttempt()
				_, err := provider.Exchange(t.Context(), callback, "the-secret-code", attempt)
				wantNone(t, err, "the-secret-code", attempt.Verifier, oidctest.ClientSecret, url.QueryEscape(oidctest.ClientSecret))
				_, err = provider.Refresh(t.Context(), "the/refresh=token", "id-alice")
				wantNone(t, err, "the/refresh=token", url.QueryEscape("the/refresh=token"), oidctest.ClientSecret, url.QueryEscape(oidctest.ClientSecret))
			})
		}
	}
}

func redirectWithSecrets(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // what was read is sent on
		w.Header().Set("Location", to+r.Form.Encode())
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// wantNone checks that an error has none of some texts.
func wantNone(t *testing.T, err error, secrets ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, secret := range secrets {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

func TestErrorsOfTokensDoNotTellThem(t *testing.T) {
	server := newServer(t)
	server.Handle(oidctest.Token, answerJSON(`{"access_token": "the-access-token", "id_token": "the.id.token", "refresh_token": "the-refresh-token"}`))
	_, err := newProvider(server).Exchange(t.Context(), callback, "code", oidc.NewAttempt())
	wantError(t, err, "its ID token is not accepted")
	wantNone(t, err, "the-access-token", "the.id.token", "the-refresh-token")
}

func TestAnErrorIsOneLineThoughThePageOfTheProviderIsNot(t *testing.T) {
	server := newServer(t)
	page := "<html>\n" + strings.Repeat("<p>the server is down</p>\n", 1000)
	for _, endpoint := range []string{oidctest.Token, oidctest.Userinfo, oidctest.Keys} {
		server.SetUser("alice", nil) // so that userinfo is asked for groups
		server.Handle(endpoint, oidctest.OAuthError(400, "broken", page))
		_, err := signIn(t, server, newProvider(server))
		if err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 600 {
			t.Errorf("%s: %v", endpoint, err)
		}
		server.Handle(endpoint, nil)
	}
}

func TestWhatTheProviderSaysOfAnErrorIsTold(t *testing.T) {
	server := newServer(t)
	server.Handle(oidctest.Token, oidctest.OAuthError(400, "invalid_grant", "the code expired"))
	_, err := signIn(t, server, newProvider(server))
	wantError(t, err, "invalid_grant: the code expired")
}

func TestAWrongClientSecretIsToldAsThat(t *testing.T) {
	server := newServer(t)
	_, err := signIn(t, server, newProvider(server, func(c *oidc.Config) { c.ClientSecret = "wrong" }))
	wantError(t, err, "invalid_client: client authentication failed")
	if errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestAnswersThatAreTooLargeAreRefused(t *testing.T) {
	for _, endpoint := range []string{oidctest.Discovery, oidctest.Token, oidctest.Userinfo, oidctest.Keys} {
		t.Run(endpoint, func(t *testing.T) {
			server := newServer(t)
			server.SetUser("alice", nil) // so that userinfo is asked for groups
			ended := make(chan int, 10)
			server.Handle(endpoint, func(w http.ResponseWriter, _ *http.Request) {
				written := 0
				defer func() { ended <- written }()
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(`{"padding": "`))
				for ; written < 64<<20; written += 1 << 16 {
					if _, err := w.Write(make([]byte, 1<<16)); err != nil {
						return
					}
				}
			})
			provider := newProvider(server, func(c *oidc.Config) { c.Client = nil })
			err := provider.Discover(t.Context())
			if err == nil {
				_, err = signIn(t, server, provider)
			}
			wantError(t, err, "larger than 1 MiB")
			if <-ended >= 64<<20 {
				t.Error("all of it was read")
			}
		})
	}
}

func TestARedirectToAnotherServerIsNotFollowed(t *testing.T) {
	for _, endpoint := range []string{oidctest.Discovery, oidctest.Token, oidctest.Userinfo, oidctest.Keys} {
		for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
			server := newServer(t)
			server.SetUser("alice", nil) // so that userinfo is asked for groups
			target, asked := elsewhere(t)
			server.Handle(endpoint, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target+r.URL.Path, status) })
			provider := newProvider(server, func(c *oidc.Config) { c.Client = nil })
			err := provider.Discover(t.Context())
			if err == nil {
				_, err = signIn(t, server, provider)
			}
			wantUnavailable(t, err)
			wantError(t, err, "redirects to another server")
			if asked() {
				t.Errorf("%s, %d: the other server was sent something", endpoint, status)
			}
		}
	}
}

func TestARedirectOnTheSameServerIsFollowed(t *testing.T) {
	server := newServer(t)
	server.Handle(oidctest.Discovery, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/moved", http.StatusFound) })
	server.Handle("/moved", func(w http.ResponseWriter, r *http.Request) {
		server.Handle(oidctest.Discovery, nil)
		r.URL.Path = oidctest.Discovery
		server.Answer(w, r)
	})
	if err := newProvider(server, func(c *oidc.Config) { c.Client = nil }).Discover(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestARedirectInACircleEnds(t *testing.T) {
	server := newServer(t)
	server.Handle(oidctest.Discovery, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, oidctest.Discovery, http.StatusFound)
	})
	err := newProvider(server).Discover(t.Context())
	wantUnavailable(t, err)
	wantError(t, err, "redirects more than 3 times")
}

func TestNoEndpointIsWaitedForForEver(t *testing.T) {
	for _, endpoint := range []string{oidctest.Token, oidctest.Userinfo} {
		server := newServer(t)
		server.SetUser("alice", nil) // so that userinfo is asked for groups
		synctest.Test(t, func(t *testing.T) {
			server.Handle(endpoint, oidctest.Hang)
			began := time.Now()
			_, err := signIn(t, server, newProvider(server))
			wantUnavailable(t, err)
			if waited := time.Since(began); waited > 10*time.Second {
				t.Errorf("%s: waited %s", endpoint, waited)
			}
		})
	}
}

func TestWhoSignsInMayLeave(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		provider := newProvider(server)
		if err := provider.Discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		server.Handle(oidctest.Token, oidctest.Hang)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := provider.Exchange(ctx, callback, "code", oidc.NewAttempt()); err == nil {
			t.Error("no error")
		}
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestNoCodeIsNotSent(t *testing.T) {
	server := newServer(t)
	_, err := newProvider(server).Exchange(t.Context(), callback, "", oidc.NewAttempt())
	wantError(t, err, "no code")
	if n := server.Requests(oidctest.Token); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAnAnswerWithoutIDTokenSignsNobodyIn(t *testing.T) {
	server := newServer(t)
	server.Handle(oidctest.Token, answerJSON(`{"access_token": "a"}`))
	_, err := signIn(t, server, newProvider(server))
	wantError(t, err, "no ID token")
}

func TestUserinfoThatRefusesIsNoOutage(t *testing.T) {
	server := newServer(t)
	server.SetUser("alice", nil)
	server.Handle(oidctest.Userinfo, oidctest.Status(403))
	_, err := signIn(t, server, newProvider(server))
	wantError(t, err, "403 Forbidden")
	if errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
