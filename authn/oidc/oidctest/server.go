// Package oidctest is a provider of OpenID Connect for tests, with paths as Authentik has
// them. Anybody signs in there at once, as whoever they want to be. It checks what it is
// sent as a strict provider does, and can be made to misbehave in any way.
package oidctest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
)

// Where the endpoints are, below [Server.URL].
const (
	Discovery  = issuerPath + ".well-known/openid-configuration"
	Authorize  = "/application/o/authorize/"
	Token      = "/application/o/token/"
	Userinfo   = "/application/o/userinfo/"
	Keys       = issuerPath + "jwks/"
	EndSession = issuerPath + "end-session/"

	issuerPath = "/application/o/registry/"
)

// The only client. The secret must be escaped where it is sent, and is long enough for an
// HMAC.
const (
	ClientID     = "registry"
	ClientSecret = "a secret/of:the+registry that is as long as a key"
)

// Claims are what the provider says of somebody.
type Claims map[string]any

// Server is a provider. It may be used concurrently.
type Server struct {
	address string
	started *http.Server
	done    chan error

	mu       sync.Mutex
	down     bool
	users    map[string]*user
	signsIn  string
	grants   map[string]grant // by code, refresh token or access token
	key      signingKey
	requests map[string]int
	settings
}

// settings are how it misbehaves.
type settings struct {
	handlers    map[string]http.HandlerFunc
	discovery   func(map[string]any)
	forge       func(*IDToken)
	userinfo    func(Claims)
	noIDToken   bool
	authMethods []string
}

// New serves a provider on a free port of the loopback interface until the test ends.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		address: "127.0.0.1:0", users: map[string]*user{}, grants: map[string]grant{}, requests: map[string]int{},
		settings: settings{handlers: map[string]http.HandlerFunc{}, authMethods: []string{"client_secret_basic", "client_secret_post"}},
	}
	s.RotateKey("ES256")
	s.address = s.serve().String()
	t.Cleanup(s.Down)
	return s
}

// URL returns where the provider is, without a slash at the end.
func (s *Server) URL() string { return "http://" + s.address }

// Issuer returns the provider's issuer, with a slash at the end.
func (s *Server) Issuer() string { return s.URL() + issuerPath }

// Down ends the listener and all connections: new ones are refused.
func (s *Server) Down() {
	if !s.setDown(true) {
		return
	}
	must(s.started.Close())
	if err := <-s.done; !errors.Is(err, http.ErrServerClosed) {
		must(err)
	}
}

// Up ends Down, on the same port.
func (s *Server) Up() {
	if !s.setDown(false) {
		return
	}
	s.serve()
}

func (s *Server) serve() net.Addr {
	listener, err := net.Listen("tcp", s.address)
	must(err)
	s.started, s.done = &http.Server{Handler: s}, make(chan error, 1)
	go func() { s.done <- s.started.Serve(listener) }()
	return listener.Addr()
}

func (s *Server) setDown(down bool) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = s.down != down
	s.down = down
	return changed
}

// Client returns a client that has its answers without a network, as tests want them that
// run in a bubble of testing/synctest.
func (s *Server) Client() *http.Client { return &http.Client{Transport: direct{s}} }

type direct struct{ server *Server }

func (d direct) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	d.server.mu.Lock()
	down := d.server.down
	d.server.mu.Unlock()
	if down {
		return nil, errors.New("connection refused")
	}
	asked := req.Clone(req.Context())
	if asked.Body == nil {
		asked.Body = http.NoBody
	}
	recorder := httptest.NewRecorder()
	d.server.ServeHTTP(recorder, asked)
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	resp := recorder.Result()
	resp.Request = req
	return resp, nil
}

// Authorize sends a browser to a URL of the authorization endpoint, and returns with what
// it is sent back: code, state, iss, or error.
func (s *Server) Authorize(t testing.TB, target string) url.Values {
	t.Helper()
	client := s.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		t.Fatalf("the authorization endpoint answers %s", resp.Status)
	}
	return back.Query()
}

// Requests returns how many requests there were to an endpoint.
func (s *Server) Requests(endpoint string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[endpoint]
}

// Handle has an endpoint answered by handler; nil: as it should be again.
func (s *Server) Handle(endpoint string, handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handlers, endpoint)
	if handler != nil {
		s.handlers[endpoint] = handler
	}
}

// Status returns what answers with a status and no more.
func Status(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, http.StatusText(status), status) }
}

// OAuthError returns what answers as a token endpoint refuses something.
func OAuthError(status int, code, description string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, status, map[string]any{"error": code, "error_description": description})
	}
}

// Hang answers never.
func Hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// ChangeDiscovery has change change the discovery document; nil: none does.
func (s *Server) ChangeDiscovery(change func(document map[string]any)) {
	s.set(func(c *settings) { c.discovery = change })
}

// Forge has forge change all ID tokens before they are signed; nil: none does.
func (s *Server) Forge(forge func(*IDToken)) { s.set(func(c *settings) { c.forge = forge }) }

// ChangeUserinfo has change change what userinfo says; nil: none does.
func (s *Server) ChangeUserinfo(change func(Claims)) {
	s.set(func(c *settings) { c.userinfo = change })
}

// RefreshWithoutIDToken tells whether refreshes are answered without an ID token.
func (s *Server) RefreshWithoutIDToken(without bool) {
	s.set(func(c *settings) { c.noIDToken = without })
}

// TakeAuthMethods are how the client may authenticate, whatever the discovery document
// says of that: client_secret_basic, client_secret_post or none.
func (s *Server) TakeAuthMethods(methods ...string) {
	s.set(func(c *settings) { c.authMethods = methods })
}

func (s *Server) set(change func(*settings)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.settings)
}

// must panics where only a bug or a stranger on the same port can be the cause.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("oidctest: %v", err))
	}
}
