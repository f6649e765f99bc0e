package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

const sessionCookie = "registry_session"

// provider returns the option of an identity provider that is played by one of the test.
func provider(name string, by *oidctest.Server, options ...string) string {
	return fmt.Sprintf("oidc %s {\nissuer %s\nclient_id %s\nclient_secret %q\n%s\n}\n",
		name, by.Issuer(), oidctest.ClientID, oidctest.ClientSecret, strings.Join(options, "\n"))
}

// signIn signs a browser in at a provider, and returns what it sends from then on.
func (s site) signIn(provider string) http.Header {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	resp, err := browser.Get(s.url() + "/auth/login/" + provider)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	here, err := url.Parse(s.url())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range jar.Cookies(here) {
		if c.Name == sessionCookie {
			return cookie(c.Name, c.Value)
		}
	}
	body, _ := io.ReadAll(resp.Body)
	s.t.Fatalf("nobody is signed in at %s: %s\n%s", resp.Request.URL, resp.Status, body)
	return nil
}
