package oidctest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// user is somebody who can sign in.
type user struct {
	claims   Claims
	disabled bool
}

// grant is what a code or token stands for.
type grant struct {
	kind, user, scope string
	// Of a code.
	nonce, redirect, challenge string
}

func (g grant) has(scope string) bool { return slices.Contains(strings.Fields(g.scope), scope) }

// SetUser adds or replaces somebody, who can sign in. Unless claims say otherwise, sub is
// "id-" and the name, and preferred_username the name; nil takes one of these away. The
// first user is the one who signs in.
func (s *Server) SetUser(name string, claims Claims) {
	all := Claims{"sub": "id-" + name, "preferred_username": name}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name] = &user{claims: all}
	if s.signsIn == "" {
		s.signsIn = name
	}
}

// Disable has somebody refused, until SetUser.
func (s *Server) Disable(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name].disabled = true
}

// SignInAs tells who signs in where no login_hint does.
func (s *Server) SignInAs(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signsIn = name
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests[r.URL.Path]++
	handler := s.handlers[r.URL.Path]
	s.mu.Unlock()
	if handler == nil {
		handler = s.Answer
	}
	handler(w, r)
}

// Answer answers a request as it should be, whatever Handle was called with.
func (s *Server) Answer(w http.ResponseWriter, r *http.Request) {
	endpoints := map[string]http.HandlerFunc{
		Discovery: s.serveDiscovery, Authorize: s.serveAuthorize, Token: s.serveToken,
		Userinfo: s.serveUserinfo, Keys: s.serveKeys, EndSession: s.serveEndSession,
	}
	serve, ok := endpoints[r.URL.Path]
	if !ok {
		serve = http.NotFound
	}
	serve(w, r)
}

func (s *Server) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	document := map[string]any{
		"issuer":                                         s.Issuer(),
		"authorization_endpoint":                         s.URL() + Authorize,
		"token_endpoint":                                 s.URL() + Token,
		"userinfo_endpoint":                              s.URL() + Userinfo,
		"jwks_uri":                                       s.URL() + Keys,
		"end_session_endpoint":                           s.URL() + EndSession,
		"response_types_supported":                       []string{"code"},
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          []string{string(s.key.algorithm)},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_post", "client_secret_basic"},
		"code_challenge_methods_supported":               []string{"S256"},
		"authorization_response_iss_parameter_supported": true,
	}
	if s.discovery != nil {
		s.discovery(document)
	}
	writeJSON(w, http.StatusOK, document)
}

func (s *Server) serveKeys(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: s.key.private.Public(), KeyID: s.key.id, Algorithm: string(s.key.algorithm), Use: "sig"},
	}})
}

func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	back, err := url.Parse(query.Get("redirect_uri"))
	if err != nil || !back.IsAbs() || query.Get("client_id") != ClientID {
		http.Error(w, "the client or its redirect_uri is unknown", http.StatusBadRequest)
		return
	}
	answer := back.Query()
	answer.Set("state", query.Get("state"))
	answer.Set("iss", s.Issuer()) // RFC 9207
	if code, problem := s.authorize(query); problem != "" {
		answer.Set("error", problem)
	} else {
		answer.Set("code", code)
	}
	back.RawQuery = answer.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// authorize returns a code for whoever signs in, or an error code of RFC 6749, section 4.1.2.1.
func (s *Server) authorize(query url.Values) (code, problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := grant{
		kind: "code", user: s.signsIn, scope: query.Get("scope"),
		nonce: query.Get("nonce"), redirect: query.Get("redirect_uri"), challenge: query.Get("code_challenge"),
	}
	if query.Get("prompt") != "consent" {
		// OpenID Connect Core, section 11.
		g.scope = strings.ReplaceAll(g.scope, "offline_access", "")
	}
	if hint := query.Get("login_hint"); hint != "" {
		g.user = hint
	}
	switch {
	case query.Get("response_type") != "code":
		return "", "unsupported_response_type"
	case !g.has("openid"):
		return "", "invalid_scope"
	case query.Get("code_challenge_method") != "S256" || g.challenge == "" || g.nonce == "" || query.Get("state") == "":
		return "", "invalid_request"
	case s.users[g.user] == nil || s.users[g.user].disabled:
		return "", "access_denied"
	}
	return s.add(g), ""
}

// add returns something that stands for a grant.
func (s *Server) add(g grant) string {
	text := g.kind + "-" + rand.Text()
	s.grants[text] = g
	return text
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.ParseForm() != nil {
		http.Error(w, "use POST with a form", http.StatusMethodNotAllowed)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isClient(r) {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": "client authentication failed"})
		return
	}
	g, problem := s.take(r.PostForm)
	if problem != "" {
		writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant", "error_description": problem})
		return
	}
	writeJSON(w, http.StatusOK, s.answer(g))
}

// isClient reports whether the client sent a request, in just one of the ways that are taken.
func (s *Server) isClient(r *http.Request) bool {
	method := "none"
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if secret != "" {
		method = "client_secret_post"
	}
	if user, password, ok := r.BasicAuth(); ok {
		if id != "" || secret != "" {
			return false
		}
		method = "client_secret_basic"
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
	}
	return id == ClientID && slices.Contains(s.authMethods, method) && (method == "none" || secret == ClientSecret)
}

// take returns what a code or refresh token stands for, once, or why it is for nothing.
func (s *Server) take(form url.Values) (g grant, problem string) {
	kind, text := "code", form.Get("code")
	if form.Get("grant_type") == "refresh_token" {
		kind, text = "refresh", form.Get("refresh_token")
	}
	g, ok := s.grants[text]
	if !ok || g.kind != kind {
		return g, "the " + kind + " is unknown, or was used before"
	}
	delete(s.grants, text)
	if s.users[g.user] == nil || s.users[g.user].disabled {
		return g, "the user is disabled"
	}
	if kind == "refresh" {
		return g, ""
	}
	challenge := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case form.Get("grant_type") != "authorization_code":
		return g, "the grant_type is unknown"
	case form.Get("redirect_uri") != g.redirect:
		return g, "the redirect_uri is another"
	case base64.RawURLEncoding.EncodeToString(challenge[:]) != g.challenge:
		return g, "the code_verifier is another"
	}
	return g, ""
}

// answer returns the tokens for a grant.
func (s *Server) answer(g grant) map[string]any {
	access := s.add(grant{kind: "access", user: g.user, scope: g.scope})
	answer := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 300, "scope": g.scope}
	if g.kind == "code" || !s.noIDToken {
		answer["id_token"] = s.idToken(g, access)
	}
	if g.has("offline_access") {
		answer["refresh_token"] = s.add(grant{kind: "refresh", user: g.user, scope: g.scope})
	}
	return answer
}

func (s *Server) serveUserinfo(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	g := s.grants[token]
	if g.kind != "access" || s.users[g.user] == nil || s.users[g.user].disabled {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		http.Error(w, "the access token is unknown", http.StatusUnauthorized)
		return
	}
	said := maps.Clone(s.users[g.user].claims)
	if s.userinfo != nil {
		s.userinfo(said)
	}
	writeJSON(w, http.StatusOK, said)
}

func (s *Server) serveEndSession(w http.ResponseWriter, r *http.Request) {
	back := r.FormValue("post_logout_redirect_uri")
	if back == "" || (r.FormValue("client_id") != ClientID && r.FormValue("id_token_hint") == "") {
		_, _ = w.Write([]byte("signed out")) // the client may be gone
		return
	}
	http.Redirect(w, r, back, http.StatusFound)
}

func writeJSON(w http.ResponseWriter, status int, content any) {
	body, err := json.Marshal(content)
	must(err)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}
