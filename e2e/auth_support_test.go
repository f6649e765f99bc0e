//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// callbackPath is where zot has it, which the identity provider knows.
const callbackPath = "/zot/auth/callback/oidc"

const (
	clientSecret = "zot-secret"
	refreshEvery = 2 * time.Second
	// rotationGrace is long enough to see that the old key still works.
	rotationGrace = 10 * time.Second
)

// guardedCaddyfile is a registry where people sign in, everybody pulls, CI pushes new tags
// and admins may do everything. Its address, its storage, the issuer, more options and more
// directives are put in.
const guardedCaddyfile = `{
	debug
	admin off
	skip_install_trust
	registry {
		storage filesystem %[2]s
	}
}

%[1]s {
	bind 127.0.0.1
	log
	registry_auth {
		oidc authentik {
			issuer %[3]s
			client_id zot
			client_secret {env.OIDC_CLIENT_SECRET}
			scopes openid email profile offline_access
			username_claim preferred_username
			groups_claim groups
			callback_path /zot/auth/callback/oidc
			refresh 2s
		}
		api_keys {
			lifetime 90d
			max_lifetime 365d
			rotation_grace 10s
		}
		policy ** {
			anonymous read
			group artifact-workloads read create
			group admins read create update delete
		}
		admins group admins
		%[4]s
	}
	%[5]s
	registry_ui
	registry
}
`

// guarded is a registry that lets not everybody do everything, with the identity provider
// where people sign in.
type guarded struct {
	*registry
	home   *home
	config string
	idp    *idp
	// scheme is that of its URL.
	scheme string
	// options are of registry_auth, besides those that it has.
	options string
	// sites are of the same server, besides its own.
	sites string
	// secrets are those of clients, and of the identity provider's, with what they are.
	secrets map[string]string
}

// startGuarded starts a registry and its identity provider.
func startGuarded(t *testing.T, directives ...string) *guarded {
	t.Helper()
	g := newGuarded(t)
	g.idp.start()
	g.start(directives...)
	return g
}

// newGuarded returns a registry and an identity provider that are not started yet.
func newGuarded(t *testing.T) *guarded {
	t.Helper()
	return newGuardedOver(t, "http")
}

// newGuardedOver returns one whose URL has a scheme.
func newGuardedOver(t *testing.T, scheme string) *guarded {
	t.Helper()
	g := &guarded{
		registry: &registry{t: t, addr: "127.0.0.1:" + lastingPort(t)},
		scheme:   scheme,
		secrets:  map[string]string{clientSecret: "client's secret"},
	}
	g.idp = newIDP(t, g.url(""))
	return g
}

// start starts the registry, with directives in its site besides those of a guarded one.
func (g *guarded) start(directives ...string) {
	g.t.Helper()
	g.home = newHome(g.t)
	g.home.env = append(g.home.env, "OIDC_CLIENT_SECRET="+clientSecret)
	g.config = g.home.write("Caddyfile", fmt.Sprintf(guardedCaddyfile, g.url(""), g.home.path("registry"), g.idp.issuer(), g.options, strings.Join(directives, "\n"))+g.sites)
	g.server = g.home.start(caddyBinary, "run", "--config", g.config, "--adapter", "caddyfile")
	g.server.waitUntil(func() error {
		a, err := g.anonymous(http.MethodGet, "/v2/", nil, nil)
		if err == nil && a.status != http.StatusUnauthorized {
			err = fmt.Errorf("GET /v2/: %v", a)
		}
		return err
	})
	g.server.onStop = func() { reportErrors(g.t, g.server.log) }
	g.t.Cleanup(g.wantNoSecrets) // while it runs
}

// in returns the same registry for a part of the test.
func (g *guarded) in(t *testing.T) *guarded {
	part := *g
	part.registry, part.home = g.registry.in(t), g.home.in(t)
	return &part
}

func (g *guarded) url(path string) string { return g.scheme + "://" + g.addr + path }

// keep remembers a secret, which must not be found with the registry in the end.
func (g *guarded) keep(what, secret string) {
	g.t.Helper()
	if secret == "" {
		g.t.Fatalf("there is no %s", what)
	}
	g.secrets[secret] = what
}

// authorized returns a sender of requests with an Authorization header, or without one.
func (g *guarded) authorized(authorization string) sender {
	return func(method, path string, header http.Header, body []byte) (answer, error) {
		request, err := http.NewRequest(method, g.url(path), bytes.NewReader(body))
		if err != nil {
			return answer{}, err
		}
		if header != nil {
			request.Header = header.Clone()
		}
		if authorization != "" {
			request.Header.Set("Authorization", authorization)
		}
		// What redirects shows where to, and no answer comes from a kept connection that
		// the registry has closed.
		transport := &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // of Caddy's own authority
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return answer{}, err
		}
		return readAnswer(response)
	}
}

// as returns a sender of requests with an API key.
func (g *guarded) as(key string) sender { return g.authorized("Bearer " + key) }

// anonymous sends a request without credentials.
func (g *guarded) anonymous(method, path string, header http.Header, body []byte) (answer, error) {
	return g.authorized("")(method, path, header, body)
}

// login signs somebody in, and returns the browser on the page of keys.
func (g *guarded) login(b *browser, user string) {
	g.t.Helper()
	b.open(g.url("/"))
	if status := b.signIn(user); status != http.StatusOK {
		g.t.Fatalf("signing in ended with status %d at %s:\n%s", status, b.location(), b.text())
	}
	b.at(g.url("/user/apikey"), user)
	g.keep("session cookie", b.cookie(g.sessionCookie()))
}

// sessionCookie is what the cookie of a session is called: one that no other host can set,
// if that is possible.
func (g *guarded) sessionCookie() string {
	if g.scheme == "https" {
		return "__Host-registry_session"
	}
	return "registry_session"
}

// newKey generates a key on the page of keys where somebody is signed in.
func (g *guarded) newKey(b *browser, label string) string {
	g.t.Helper()
	b.fill("label", label)
	if status := b.press("Generate API key"); status != http.StatusOK {
		g.t.Fatalf("generating a key answers %d:\n%s", status, b.text())
	}
	key := b.value("new-key")
	if !keyPattern.MatchString(key) {
		g.t.Fatalf("the page shows %q as the key", key)
	}
	g.keep("API key", key)
	return key
}

// keyOf returns a key that somebody made on the page of keys.
func (g *guarded) keyOf(user string) string {
	g.t.Helper()
	b := startBrowser(g.t)
	g.login(b, user)
	return g.newKey(b, "key of "+user)
}

// madeKey returns a key that was made on the command line.
func (g *guarded) madeKey(user, group string) string {
	g.t.Helper()
	key := g.home.run(caddyBinary, "registry", "apikey", "create", "--config", g.config, "--user", user, "--group", group)
	g.keep("API key", key)
	return key
}

// token returns a token as docker fetches it.
func (g *guarded) token(key string, scopes ...string) string {
	g.t.Helper()
	path := "/auth/token?service=" + g.addr
	for _, scope := range scopes {
		path += "&scope=" + scope
	}
	a := expect(g.t, http.StatusOK)(g.as(key)(http.MethodGet, path, nil, nil))
	token := decode[struct{ Token string }](g.t, a.body).Token
	g.keep("token", token)
	return token
}

// wantRefused fails the test unless an answer is a refusal with a status and code of the
// distribution spec, whose message has some words.
func wantRefused(t *testing.T, a answer, status int, code string, words ...string) {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil || a.status != status || len(body.Errors) != 1 || body.Errors[0].Code != code {
		t.Errorf("answer %v, want %d with %s", a, status, code)
		return
	}
	for _, word := range words {
		if !strings.Contains(body.Errors[0].Message, word) {
			t.Errorf("the message %q does not say %q", body.Errors[0].Message, word)
		}
	}
}

var keyPattern = regexp.MustCompile(`^crk_[0-9A-Za-z]{38}$`)
