package oidc_test

import (
	"crypto/rand"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc"
	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

func TestANewKeyIsTakenAtOnce(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		provider := newProvider(server)
		mustSignIn(t, server, provider)
		mustSignIn(t, server, provider)
		if n := server.Requests(oidctest.Keys); n != 1 {
			t.Errorf("the keys were read %d times", n)
		}
		synctest.Wait() // until that reading is over, which those share who come meanwhile
		server.RotateKey("ES256")
		mustSignIn(t, server, provider)
	})
}

func TestAKeyThatTheProviderGaveUpIsNotBelievedForEver(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		provider := newProvider(server)
		var old oidctest.IDToken
		server.Forge(func(token *oidctest.IDToken) { old = *token })
		mustSignIn(t, server, provider)
		server.RotateKey("ES256")
		server.Forge(func(token *oidctest.IDToken) { token.Key, token.KeyID = old.Key, old.KeyID })
		time.Sleep(61 * time.Minute)
		if err := provider.Discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_, err := signIn(t, server, provider)
		wantError(t, err, "failed to verify id token signature")
	})
}

func TestTokensOfUnknownKeysDoNotHaveTheKeysReadWithoutEnd(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		provider := newProvider(server)
		mustSignIn(t, server, provider)
		other := oidctest.NewKey("ES256")
		server.Forge(func(token *oidctest.IDToken) { token.Key, token.KeyID = other, rand.Text() })
		before, began := server.Requests(oidctest.Keys), time.Now()
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() {
				for range 10 {
					_, err := signIn(t, server, provider)
					wantError(t, err, "failed to verify id token signature")
				}
			})
		}
		group.Wait()
		most := 2 + int(time.Since(began)/(2*time.Second))
		if n := server.Requests(oidctest.Keys) - before; n > most || n == 0 {
			t.Errorf("100 tokens had the keys read %d times in %s", n, time.Since(began))
		}
		server.Forge(nil)
		mustSignIn(t, server, provider)
	})
}

func TestKeysThatCannotBeReadAreNoForgery(t *testing.T) {
	for _, status := range []int{404, 429, 500} {
		server := newServer(t)
		synctest.Test(t, func(t *testing.T) {
			server.Handle(oidctest.Keys, oidctest.Status(status))
			provider := newProvider(server)
			_, err := signIn(t, server, provider)
			wantUnavailable(t, err)
			synctest.Wait() // until that reading is over, which those share who come meanwhile
			server.Handle(oidctest.Keys, nil)
			mustSignIn(t, server, provider)
		})
	}
}

func TestKeysThatDoNotComeAreNotWaitedForForEver(t *testing.T) {
	server := newServer(t)
	synctest.Test(t, func(t *testing.T) {
		server.Handle(oidctest.Keys, oidctest.Hang)
		began := time.Now()
		_, err := signIn(t, server, newProvider(server))
		wantUnavailable(t, err)
		if waited := time.Since(began); waited > 10*time.Second {
			t.Errorf("waited %s", waited)
		}
	})
}

func TestWhatElseIsAmongTheKeysDoesNoHarm(t *testing.T) {
	server := newServer(t)
	server.Handle(oidctest.Keys, answerJSON(`{"keys": "<html>`))
	_, err := signIn(t, server, newProvider(server, func(c *oidc.Config) { c.Log = nil }))
	wantError(t, err, "its ID token is not accepted")
}
