package oidc_test

import (
	"bytes"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/authn/oidc"
)

// TestConsentIsAskedForWhereItIsNeeded: without it a provider ignores offline_access
// (OpenID Connect Core, section 11), and with it people have one more page to click through.
func TestConsentIsAskedForWhereItIsNeeded(t *testing.T) {
	server := newServer(t)
	for scopes, want := range map[string]string{"openid profile": "", "openid offline_access": "consent"} {
		provider := newProvider(server, func(c *oidc.Config) { c.Scopes = strings.Fields(scopes) })
		target, err := provider.AuthURL(t.Context(), callback, oidc.NewAttempt())
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		if got := u.Query().Get("prompt"); got != want {
			t.Errorf("%s: prompt %q, want %q", scopes, got, want)
		}
	}
}

func TestAProviderThatDoesNotGrantOfflineAccessIsWarnedOf(t *testing.T) {
	server := newServer(t)
	var log bytes.Buffer
	provider := newProvider(server, func(c *oidc.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	mustSignIn(t, server, provider)
	if log.Len() != 0 {
		t.Errorf("granted: %s", &log)
	}
	attempt := oidc.NewAttempt()
	target, err := provider.AuthURL(t.Context(), callback, attempt)
	if err != nil {
		t.Fatal(err)
	}
	answer := server.Authorize(t, strings.Replace(target, "prompt=consent", "prompt=login", 1))
	if _, err := provider.Exchange(t.Context(), callback, answer.Get("code"), attempt); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "does not grant offline_access") {
		t.Errorf("not granted: %q", &log)
	}
}
