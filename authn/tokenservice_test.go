package authn

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/storage"
)

// fetch returns what the token service answers to a GET, with scopes if there are any.
func (s *site) fetch(headers []string, scopes ...string) tokenAnswer {
	s.t.Helper()
	query := url.Values{"service": {"registry.test"}, "scope": scopes}
	answer, _ := s.serveToken(newRequest(http.MethodGet, "/auth/token?"+query.Encode(), headers...))
	return answer
}

func (s *site) serveToken(r *http.Request) (tokenAnswer, http.Header) {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.ServeToken(w, r)
	var answer tokenAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		s.t.Fatalf("%d %s", w.Code, w.Body)
	}
	return answer, w.Header()
}

// access returns what a token allows, as scopes.
func (s *site) access(text string) string {
	s.t.Helper()
	token, err := s.Tokens.Verify(context.Background(), text, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	return scopeText(token.Access)
}

func TestWhatATokenIsMadeFor(t *testing.T) {
	s := newSite(t)
	_, writer := s.addKey(storage.APIKey{})
	_, limited := s.addKey(storage.APIKey{Scopes: []string{"read:**"}})
	_, pusher := s.addKey(storage.APIKey{Scopes: []string{"create:**"}})
	_, admin := s.addKey(storage.APIKey{Owner: "eve", Groups: []string{"admins"}})
	for _, test := range []struct {
		name   string
		key    string
		scopes []string
		want   string
	}{
		{"nothing", writer, nil, ""},
		{"an empty scope", writer, []string{""}, ""},
		{"what is allowed", writer, []string{"repository:public/app:pull,push"}, "repository:public/app:pull,push"},
		{"actions in another order", writer, []string{"repository:public/app:push,pull"}, "repository:public/app:pull,push"},
		{"an action twice", writer, []string{"repository:public/app:pull,pull"}, "repository:public/app:pull"},
		{"all actions", admin, []string{"repository:public/app:*"}, "repository:public/app:delete,pull,push"},
		{"all actions, of which some are allowed", writer, []string{"repository:public/app:*"}, "repository:public/app:pull,push"},
		{"what is not allowed is left out", writer, []string{"repository:public/app:pull,delete"}, "repository:public/app:pull"},
		{"anonymous may pull", "", []string{"repository:public/app:pull,push"}, "repository:public/app:pull"},
		{"anonymous may not", "", []string{"repository:team/app:pull"}, ""},
		{"push is either of create and update", writer, []string{"repository:team/app:push"}, "repository:team/app:push"},
		{"a repository that no policy names", admin, []string{"repository:other/app:pull"}, ""},
		{"several scopes", writer, []string{"repository:public/a:pull", "repository:public/b:push"}, "repository:public/a:pull repository:public/b:push"},
		{"several in one", writer, []string{"repository:public/a:pull  repository:public/b:push"}, "repository:public/a:pull repository:public/b:push"},
		{"one of several is allowed", writer, []string{"repository:other/a:pull repository:public/b:pull"}, "repository:public/b:pull"},
		{"a name with a host and its port", writer, []string{"repository:mirror.test:5000/public/app:pull"}, "repository:mirror.test:5000/public/app:pull"},
		{"a class", writer, []string{"repository(plugin):public/app:pull"}, "repository:public/app:pull"},
		{"an unknown action", writer, []string{"repository:public/app:pull,read,PULL,"}, "repository:public/app:pull"},
		{"an unknown kind", writer, []string{"image:public/app:pull", "Repository:public/app:pull"}, ""},
		{"no action", writer, []string{"repository:public/app:", "repository:public/app"}, ""},
		{"no name", writer, []string{"repository", ":", "::", "repository::pull"}, ""},
		{"the catalog", "", []string{"registry:catalog:*"}, "registry:catalog:pull"},
		{"the catalog, and what it has not", admin, []string{"registry:catalog:pull,push,other"}, "registry:catalog:pull"},
		{"another of the registry", admin, []string{"registry:other:*"}, ""},
		{"a key that is limited", limited, []string{"repository:public/app:pull,push"}, "repository:public/app:pull"},
		{"a key that is limited to pushing", pusher, []string{"repository:public/app:pull,push", "registry:catalog:*"}, "repository:public/app:push"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			var headers []string
			if test.key != "" {
				headers = bearer(test.key)
			}
			if got := s.access(s.fetch(headers, test.scopes...).Token); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestTheAnswerOfTheTokenService(t *testing.T) {
	s := newSite(t)
	key, text := s.addKey(storage.APIKey{Lifetime: time.Hour})
	// What else clients send changes nothing, and a refresh token is not given.
	target := "/auth/token?account=alice&client_id=docker&offline_token=true&service=other.test&scope=repository:public/app:pull"
	answer, header := s.serveToken(newRequest(http.MethodGet, target, basic("alice", text)...))
	if answer.Token == "" || answer.Token != answer.AccessToken || answer.ExpiresIn != 300 || time.Since(answer.IssuedAt) > time.Minute || answer.Scope != "" {
		t.Errorf("%+v", answer)
	}
	if header.Get("Cache-Control") != "no-store" || header.Get("Content-Type") != "application/json" || !strings.Contains(header.Get("Warning"), key.ID) {
		t.Errorf("%v", header)
	}
	token, err := s.Tokens.Verify(context.Background(), answer.Token, time.Now())
	if err != nil || token.Subject != "alice" || token.Key != key.ID || !reflect.DeepEqual(token.Access, []Access{{"repository", "public/app", []string{"pull"}}}) {
		t.Errorf("%+v, %v", token, err)
	}
	w := httptest.NewRecorder()
	s.ServeToken(w, newRequest(http.MethodHead, target, basic("alice", text)...))
	if w.Code != http.StatusOK || w.Body.Len() != 0 || w.Header().Get("Content-Length") == "" {
		t.Errorf("HEAD: %d, %d bytes, %v", w.Code, w.Body.Len(), w.Header())
	}
}

func TestASessionGetsNoToken(t *testing.T) {
	s := newSite(t)
	answer := s.fetch([]string{"Cookie", s.signIn("eve", "admins")}, "repository:public/app:pull,push")
	if got := s.access(answer.Token); got != "repository:public/app:pull" {
		t.Errorf("%s", got)
	}
	if caller := s.whoHas(bearer(answer.Token)...); caller.Identity != nil {
		t.Errorf("%+v", caller)
	}
}

func TestTheTokenServiceRefusesWhatProvesNobody(t *testing.T) {
	s := newSite(t)
	_, text := s.addKey(storage.APIKey{})
	for name, test := range map[string]struct {
		headers []string
		words   string
	}{
		"a wrong password": {basic("alice", "secret"), "neither an API key nor a token"},
		"another's key":    {basic("bob", text), "not that user's"},
		"a malformed one":  {[]string{"Authorization", "Basic x"}, "RFC 7617"},
		"a token":          {bearer(s.fetch(bearer(text), "").Token), "a token makes no other token"},
		"anonymous's":      {bearer(s.fetch(nil, "").Token), "a token makes no other token"},
	} {
		w := httptest.NewRecorder()
		s.ServeToken(w, newRequest(http.MethodGet, "/auth/token?scope=repository:public/app:pull", test.headers...))
		wantTokenError(t, name, w, http.StatusUnauthorized, "UNAUTHORIZED", "invalid_grant", test.words)
	}
	w := httptest.NewRecorder()
	s.ServeToken(w, newRequest(http.MethodPut, "/auth/token"))
	wantTokenError(t, "PUT", w, http.StatusMethodNotAllowed, "UNSUPPORTED", "invalid_request", "use GET or POST")
	if w.Header().Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("%v", w.Header())
	}
}

// wantTokenError checks an error in the words of the distribution spec and of OAuth.
func wantTokenError(t *testing.T, name string, w *httptest.ResponseRecorder, status int, code, oauth, words string) {
	t.Helper()
	var body struct {
		Errors           []struct{ Code, Message string }
		Error            string
		ErrorDescription string `json:"error_description"`
		Details          string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body.Errors) != 1 {
		t.Fatalf("%s: %d %s", name, w.Code, w.Body)
	}
	if w.Code != status || body.Errors[0].Code != code || body.Error != oauth {
		t.Errorf("%s: %d %s", name, w.Code, w.Body)
	}
	for _, message := range []string{body.Errors[0].Message, body.ErrorDescription, body.Details} {
		if !strings.Contains(message, words) {
			t.Errorf("%s: %q does not say %q", name, message, words)
		}
	}
}

// A client must be able to use whatever token it is given, and is given one whatever it asks.
func TestWhateverIsAskedForATokenIsGivenAndTaken(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	_, admin := s.addKey(storage.APIKey{Owner: "eve", Groups: []string{"admins"}})
	callers := [][]string{nil, bearer(admin), bearer(ci.token(t, "eblume/app", time.Hour))}
	part := rapid.SampledFrom([]string{
		"repository", "registry", "catalog", ":", ",", " ", "*", "public/app", "team/app", "pull", "push", "delete", "(", "é", "\x00", "\"", strings.Repeat("x/", 130),
	})
	rapid.Check(t, func(rt *rapid.T) {
		headers := rapid.SampledFrom(callers).Draw(rt, "caller")
		var scopes []string
		for range rapid.IntRange(0, 3).Draw(rt, "scopes") {
			scopes = append(scopes, strings.Join(rapid.SliceOf(part).Draw(rt, "scope"), ""))
		}
		s.access(s.fetch(headers, scopes...).Token)
	})
	var many []string
	for range 1000 {
		many = append(many, "repository:public/a:*")
	}
	for name, scopes := range map[string][]string{
		"many": many, "many in one": {strings.Join(many, " ")}, "long ones": {strings.Repeat("repository:public/"+strings.Repeat("x", 230)+":* ", 100)},
	} {
		granted := strings.Fields(s.access(s.fetch(bearer(admin), scopes...).Token))
		if len(granted) < 10 || len(granted) > maxScopes {
			t.Errorf("%s: %d are granted", name, len(granted))
		}
	}
}
