package authn

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/storage"
)

func newForm(content string, headers ...string) *http.Request {
	r := newRequest(http.MethodPost, "/auth/token", headers...)
	posted := httptest.NewRequest(http.MethodPost, "/auth/token", strings.NewReader(content))
	r.Body, r.ContentLength = posted.Body, posted.ContentLength
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func TestTokensForForms(t *testing.T) {
	s := newSite(t)
	_, text := s.addKey(storage.APIKey{})
	for _, test := range []struct {
		name string
		form url.Values
		want string
	}{
		{"as containerd sends it", url.Values{
			"grant_type": {"password"}, "client_id": {"containerd-client"}, "service": {"registry.test"}, "access_type": {"offline"},
			"scope": {"repository:public/app:pull repository:public/base:pull"}, "username": {"alice"}, "password": {text},
		}, "repository:public/app:pull repository:public/base:pull"},
		{"as oras and helm send it", url.Values{
			"grant_type": {"password"}, "client_id": {"oras-go"}, "service": {"registry.test"},
			"scope": {"repository:public/app:pull,push"}, "username": {"alice"}, "password": {text},
		}, "repository:public/app:pull,push"},
		{"with several scopes", url.Values{
			"grant_type": {"password"}, "scope": {"repository:public/a:pull", "repository:public/b:pull"}, "username": {"alice"}, "password": {text},
		}, "repository:public/a:pull repository:public/b:pull"},
		{"without scopes", url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {text}}, ""},
		{"of anonymous", url.Values{"grant_type": {"password"}, "scope": {"repository:public/app:pull,push"}}, "repository:public/app:pull"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			answer, _ := s.serveToken(newForm(test.form.Encode()))
			if got := s.access(answer.AccessToken); got != test.want || answer.Scope != test.want || answer.Token != answer.AccessToken {
				t.Errorf("%q, and says %q", got, answer.Scope)
			}
		})
	}
}

func TestFormsThatAreRefused(t *testing.T) {
	s := newSite(t)
	_, text := s.addKey(storage.APIKey{})
	right := url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {text}}
	with := func(name, value string) string {
		changed := url.Values{}
		for key, values := range right {
			changed[key] = values
		}
		changed.Set(name, value)
		return changed.Encode()
	}
	for _, test := range []struct {
		name, content string
		status        int
		oauth, words  string
	}{
		{"a wrong password", with("password", "secret"), 401, "invalid_grant", "neither an API key nor a token"},
		{"another's key", with("username", "bob"), 401, "invalid_grant", "not that user's"},
		{"a key without a user", with("username", ""), 401, "invalid_grant", "not that user's"},
		{"a user without a key", with("password", ""), 401, "invalid_grant", "neither an API key nor a token"},
		{"a key that nobody has", with("password", newKey()), 401, "invalid_grant", "the API key is unknown"},
		{"a token as the password", with("password", s.fetch(bearer(text), "").Token), 401, "invalid_grant", "neither an API key nor a token"},
		{"a refresh token", with("grant_type", "refresh_token"), 400, "unsupported_grant_type", "grant_type must be password"},
		{"a code", with("grant_type", "authorization_code"), 400, "unsupported_grant_type", "grant_type must be password"},
		{"the grant in another case", with("grant_type", "Password"), 400, "unsupported_grant_type", "grant_type must be password"},
		{"no grant", with("grant_type", ""), 400, "invalid_request", "grant_type is missing"},
		{"an empty form", "", 400, "invalid_request", "grant_type is missing"},
		{"what is no form", "%zz", 400, "invalid_request", "the form cannot be read"},
		{"too much", with("scope", strings.Repeat("x", maxForm)), 400, "invalid_request", "too large"},
	} {
		w := httptest.NewRecorder()
		s.ServeToken(w, newForm(test.content))
		code := "UNAUTHORIZED"
		if test.status == http.StatusBadRequest {
			code = "UNSUPPORTED"
		}
		wantTokenError(t, test.name, w, test.status, code, test.oauth, test.words)
	}
}

// A form says itself who sends it, and what for.
func TestOnlyTheFormCounts(t *testing.T) {
	s := newSite(t)
	_, text := s.addKey(storage.APIKey{})
	r := newForm("grant_type=password&scope=repository:public/app:pull,push", append(basic("alice", text), "Cookie", s.signIn("alice", "writers"))...)
	r.URL.RawQuery = url.Values{"username": {"alice"}, "password": {text}, "scope": {"repository:team/app:pull"}}.Encode()
	answer, _ := s.serveToken(r)
	if got := s.access(answer.Token); got != "repository:public/app:pull" {
		t.Errorf("%s", got)
	}
	r = newForm("username=alice", basic("alice", text)...)
	r.URL.RawQuery = "grant_type=password"
	w := httptest.NewRecorder()
	s.ServeToken(w, r)
	wantTokenError(t, "the grant in the query", w, http.StatusBadRequest, "UNSUPPORTED", "invalid_request", "grant_type is missing")
}
