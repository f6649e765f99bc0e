package upstreamtest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// authentication says who may pull.
type authentication interface {
	// check returns a refusal, or nil. It is called with the registry's lock held.
	check(req *http.Request, name string, repositories map[string]*contents) *answer
}

// AllowAll asks for no credentials, as at first.
func (r *Registry) AllowAll() {
	r.set(func(s *settings) { s.auth = nil })
}

// RequireBasic asks for a name and a password with each request.
func (r *Registry) RequireBasic(username, password string) {
	r.set(func(s *settings) { s.auth = basic{username, password} })
}

type basic struct{ username, password string }

func (b basic) check(req *http.Request, _ string, _ map[string]*contents) *answer {
	if username, password, ok := req.BasicAuth(); ok && username == b.username && password == b.password {
		return nil
	}
	return unauthorized(`Basic realm="upstream"`)
}

func unauthorized(challenge string) *answer {
	a := refusal(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	a.header.Set("WWW-Authenticate", challenge)
	a.challenge = true
	return a
}

// Tokens is how a token service behaves.
type Tokens struct {
	// Username and Password are who gets tokens for private repositories (SetPrivate).
	Username, Password string
	// NoAnonymous refuses tokens to who gives no password; others get one for all that
	// is not private.
	NoAnonymous bool
	// Lifetime is how long a token is good, in whole seconds; by default 5 minutes.
	Lifetime time.Duration
	// OmitExpiry does not tell clients the lifetime; then they take it for a minute.
	OmitExpiry bool
	// Realm is where challenges send clients; by default to this registry's own service.
	Realm string
}

// tokenPath is where the token service is.
const tokenPath = "/token"

// service is the audience of tokens.
const service = "upstream.test"

// RequireBearer asks for a token, which the registry's own service at /token gives, for
// the repository that is asked for. As with Docker Hub, a repository that does not exist
// is 401 like one that is not allowed. Tokens given before are good no more.
func (r *Registry) RequireBearer(t Tokens) {
	t.Lifetime = cmp.Or(t.Lifetime, 5*time.Minute)
	r.set(func(s *settings) { s.auth = &tokens{Tokens: t, given: make(map[string]grant)} })
}

// ExpireTokens makes all tokens bad that were given so far, whatever lifetime was told.
func (r *Registry) ExpireTokens() {
	r.set(func(s *settings) {
		if t, ok := s.auth.(*tokens); ok {
			clear(t.given)
		}
	})
}

type tokens struct {
	Tokens
	given map[string]grant
	count int
}

// grant is what a token is good for.
type grant struct {
	repositories []string
	expires      time.Time
}

func (t *tokens) check(req *http.Request, name string, repositories map[string]*contents) *answer {
	realm := cmp.Or(t.Realm, scheme(req)+"://"+req.Host+tokenPath)
	challenge := fmt.Sprintf(`Bearer realm=%q,service=%q`, realm, service)
	if name != "" {
		challenge += fmt.Sprintf(`,scope="repository:%s:pull"`, name)
	}
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return unauthorized(challenge)
	}
	given, ok := t.given[token]
	if !ok || time.Now().After(given.expires) {
		return unauthorized(challenge + `,error="invalid_token"`)
	}
	if name != "" && (!slices.Contains(given.repositories, name) || repositories[name] == nil) {
		return unauthorized(challenge + `,error="insufficient_scope"`)
	}
	return nil
}

// give answers a request for a token: a GET with Basic credentials or none, or OAuth 2's
// POST of a form, as containerd begins with.
func (t *tokens) give(req *http.Request, repositories map[string]*contents) *answer {
	username, password, known := req.BasicAuth()
	if req.Method == http.MethodPost {
		if err := req.ParseForm(); err != nil {
			return refusal(http.StatusBadRequest, "UNSUPPORTED", err.Error())
		}
		username, password = req.PostForm.Get("username"), req.PostForm.Get("password")
		known = req.PostForm.Get("grant_type") == "password"
	} else if req.Method != http.MethodGet {
		return refusal(http.StatusMethodNotAllowed, "UNSUPPORTED", "GET or POST")
	}
	query := req.URL.Query()
	if req.Method == http.MethodPost {
		query = req.PostForm
	}
	switch {
	case known && (username != t.Username || password != t.Password || username == ""):
		return refusal(http.StatusUnauthorized, "UNAUTHORIZED", "incorrect username or password")
	case !known && t.NoAnonymous:
		return refusal(http.StatusUnauthorized, "UNAUTHORIZED", "a password is required")
	case query.Get("service") != service:
		return refusal(http.StatusBadRequest, "UNSUPPORTED", "service must be "+service)
	}
	given := grant{expires: time.Now().Add(t.Lifetime)}
	for _, scope := range strings.Fields(strings.Join(query["scope"], " ")) {
		parts := strings.Split(scope, ":")
		if len(parts) != 3 || parts[0] != "repository" || !slices.Contains(strings.Split(parts[2], ","), "pull") {
			continue
		}
		if found := repositories[parts[1]]; found == nil || !found.private || known {
			given.repositories = append(given.repositories, parts[1])
		}
	}
	t.count++
	token := fmt.Sprintf("token-%d", t.count)
	t.given[token] = given
	told := map[string]any{"token": token, "access_token": token}
	if !t.OmitExpiry {
		told["expires_in"] = int(t.Lifetime.Seconds())
		told["issued_at"] = time.Now().UTC().Format(time.RFC3339)
	}
	return found("application/json", encode(told))
}

func scheme(req *http.Request) string {
	if req.TLS != nil {
		return "https"
	}
	return "http"
}
