package authn

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// keys sends a request to the API for keys, and returns the answer.
func (s *site) keys(method, target, body string, headers ...string) (*httptest.ResponseRecorder, map[string]any) {
	s.t.Helper()
	r := newRequest(method, target, headers...)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	w := httptest.NewRecorder()
	if strings.HasSuffix(r.URL.Path, "/rotate") {
		s.ServeRotate(w, r)
	} else {
		s.ServeKeys(w, r)
	}
	var answer map[string]any
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			s.t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if w.Header().Get("Cache-Control") != "no-store" || w.Header().Get("Content-Type") != "application/json" {
		s.t.Errorf("headers %v", w.Header())
	}
	return w, answer
}

func fields(answer map[string]any) string {
	return strings.Join(slices.Sorted(maps.Keys(answer)), " ")
}

const (
	keyFields    = "createdAt expirationDate isExpired isRevoked label lastUsed scopes uuid"
	newKeyFields = "apiKey " + keyFields
)

func TestTheAPIForKeysAnswersAsPromised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		cookie := s.signIn("alice", "writers")
		w, made := s.keys(http.MethodPost, "/auth/apikey",
			`{"label":"ci","expirationDate":"2000-06-01T00:00:00Z","scopes":["read:team/**","create:team/**"],"other":1}`, "Cookie", cookie)
		if w.Code != http.StatusCreated || fields(made) != newKeyFields {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		text := made["apiKey"].(string)
		delete(made, "apiKey")
		want := `{"createdAt":"2000-01-01T00:00:00Z","expirationDate":"2000-06-01T00:00:00Z","isExpired":false,"isRevoked":false,` +
			`"label":"ci","lastUsed":null,"scopes":["read:team/**","create:team/**"],"uuid":"` + made["uuid"].(string) + `"}`
		if got, _ := json.Marshal(made); string(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
		time.Sleep(time.Minute)
		s.whoHas(bearer(text)...)
		w, listed := s.keys(http.MethodGet, "/auth/apikey", "", "Cookie", cookie)
		made["lastUsed"] = "2000-01-01T00:01:00Z"
		got, _ := json.Marshal(listed)
		wantOne, _ := json.Marshal(map[string]any{"apiKeys": []any{made}})
		if w.Code != http.StatusOK || string(got) != string(wantOne) {
			t.Errorf("%d %s, want %s", w.Code, got, wantOne)
		}

		w, rotated := s.keys(http.MethodPost, "/auth/apikey/rotate", "", bearer(text)...)
		if w.Code != http.StatusCreated || fields(rotated) != newKeyFields || rotated["label"] != "ci" || rotated["expirationDate"] != "2000-06-01T00:01:00Z" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		w, ended := s.keys(http.MethodDelete, "/auth/apikey?id="+rotated["uuid"].(string), "", bearer(rotated["apiKey"].(string))...)
		if w.Code != http.StatusOK || len(ended) != 0 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		_, listed = s.keys(http.MethodGet, "/auth/apikey", "", "Cookie", cookie)
		if got, _ := json.Marshal(listed); !strings.Contains(string(got), `"isRevoked":true`) {
			t.Errorf("%s", got)
		}
		time.Sleep(s.Keys.Grace)
		w, _ = s.keys(http.MethodGet, "/auth/apikey", "", "Cookie", s.signIn("alice"))
		if strings.Count(w.Body.String(), `"isExpired":true`) != 1 {
			t.Errorf("%s", w.Body)
		}
		w, _ = s.keys(http.MethodHead, "/auth/apikey", "", "Cookie", s.signIn("alice"))
		if w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("HEAD: %d %s", w.Code, w.Body)
		}
	})
}

func TestNobodysKeysAreAnEmptyList(t *testing.T) {
	s := newSite(t)
	if w, _ := s.keys(http.MethodGet, "/auth/apikey", "", "Cookie", s.signIn("alice")); w.Body.String() != `{"apiKeys":[]}` {
		t.Errorf("%s", w.Body)
	}
}

func TestNobodySeesAnothersKeys(t *testing.T) {
	s := newSite(t)
	s.makeKey(s.signIn("alice"), KeyRequest{})
	s.addKey(storage.APIKey{Owner: "eve"})
	for _, cookie := range []string{s.signIn("bob"), s.signIn("eve", "admins")} {
		if w, _ := s.keys(http.MethodGet, "/auth/apikey", "", "Cookie", cookie); w.Body.String() != `{"apiKeys":[]}` {
			t.Errorf("%s", w.Body)
		}
	}
}

func TestWhatTheBodyOfANewKeyMayBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		cookie := s.signIn("alice")
		for _, test := range []struct {
			name, body string
			words      string // empty: it is taken
		}{
			{"nothing", "", ""},
			{"an empty object", "{}", ""},
			{"as zot's page sends it", `{"label":"","scopes":[""],"expirationDate":""}`, ""},
			{"null", `{"label":null,"scopes":null,"expirationDate":null}`, ""},
			{"in another zone", `{"expirationDate":"2000-01-01T02:00:01+02:00"}`, ""},
			{"the last date", `{"expirationDate":"2000-12-31T00:00:00Z"}`, ""},
			{"a second later", `{"expirationDate":"2000-12-31T00:00:01Z"}`, "is too late"},
			{"this second", `{"expirationDate":"2000-01-01T00:00:00Z"}`, "has passed"},
			{"a time that is not set", `{"expirationDate":"0001-01-01T00:00:00Z"}`, "has passed"},
			{"a day", `{"expirationDate":"2000-06-01"}`, "must be as 2027-01-31T00:00:00Z"},
			{"no date", `{"expirationDate":"tomorrow"}`, "must be as 2027-01-31T00:00:00Z"},
			{"no such day", `{"expirationDate":"2000-02-30T00:00:00Z"}`, "must be as 2027-01-31T00:00:00Z"},
			{"a number", `{"expirationDate":1}`, "not the JSON that is expected"},
			{"no list", `{"scopes":"read:a"}`, "not the JSON that is expected"},
			{"a list", `[]`, "not the JSON that is expected"},
			{"a form", `label=ci`, "not the JSON that is expected"},
			{"cut", `{"label":"ci"`, "not the JSON that is expected"},
			{"two", `{}{}`, "goes on after its JSON"},
			{"too much", `{"label":"` + strings.Repeat("x", maxForm) + `"}`, "too large"},
		} {
			w, answer := s.keys(http.MethodPost, "/auth/apikey", test.body, "Cookie", cookie)
			if test.words == "" {
				if w.Code != http.StatusCreated || fields(answer) != newKeyFields {
					t.Errorf("%s: %d %s", test.name, w.Code, w.Body)
				}
				continue
			}
			if message, _ := answer["error"].(string); w.Code != http.StatusBadRequest || fields(answer) != "error" || !strings.Contains(message, test.words) {
				t.Errorf("%s: %d %s", test.name, w.Code, w.Body)
			}
		}
	})
}

func TestRefusalsOfTheAPIForKeys(t *testing.T) {
	s := newSite(t)
	cookie := s.signIn("alice")
	key, text := s.makeKey(cookie, KeyRequest{})
	crossSite := []string{"Cookie", cookie, "Sec-Fetch-Site", "cross-site"}
	own := "/auth/apikey?id=" + key.ID
	for _, test := range []struct {
		name, method, target string
		headers              []string
		status               int
		words                string
	}{
		{"anonymous makes one", "POST", "/auth/apikey", nil, 401, "sign in first"},
		{"anonymous lists", "GET", "/auth/apikey", nil, 401, "sign in first"},
		{"a key makes one", "POST", "/auth/apikey", bearer(text), 403, "makes and lists no keys"},
		{"a key lists", "GET", "/auth/apikey", bearer(text), 403, "makes and lists no keys"},
		{"a wrong key", "GET", "/auth/apikey", bearer(newKey()), 401, "the API key is unknown"},
		{"another site's page makes one", "POST", "/auth/apikey", crossSite, 403, "comes from another site"},
		{"another site's page ends one", "DELETE", own, crossSite, 403, "comes from another site"},
		{"no such key", "DELETE", "/auth/apikey?id=none", []string{"Cookie", cookie}, 404, "no such API key of yours"},
		{"no key", "DELETE", "/auth/apikey", []string{"Cookie", cookie}, 404, "no such API key of yours"},
		{"somebody else's key", "DELETE", own, []string{"Cookie", s.signIn("bob")}, 404, "no such API key of yours"},
		{"another method", "PUT", "/auth/apikey", []string{"Cookie", cookie}, 405, "use GET, POST or DELETE"},
		{"anonymous rotates", "POST", "/auth/apikey/rotate", nil, 401, "send the API key that is to be rotated"},
		{"a person rotates, without a key", "POST", "/auth/apikey/rotate", []string{"Cookie", cookie}, 401, "send the API key that is to be rotated"},
		{"a session of a key rotates", "POST", "/auth/apikey/rotate", []string{"Cookie", s.loginWithKey(text)}, 401, "send the API key that is to be rotated"},
		{"a token rotates", "POST", "/auth/apikey/rotate", bearer(s.fetch(bearer(text), "").Token), 403, "only rotate or end itself"},
		{"a GET rotates", "GET", "/auth/apikey/rotate", bearer(text), 405, "use POST"},
	} {
		w, answer := s.keys(test.method, test.target, "", test.headers...)
		if message, _ := answer["error"].(string); w.Code != test.status || fields(answer) != "error" || !strings.Contains(message, test.words) {
			t.Errorf("%s: %d %s", test.name, w.Code, w.Body)
		}
		if (w.Code == http.StatusMethodNotAllowed) != (w.Header().Get("Allow") != "") {
			t.Errorf("%s: %v", test.name, w.Header())
		}
	}
	if keys, err := s.Accounts.Keys(context.Background()); err != nil || len(keys) != 1 || !keys[0].Revoked.IsZero() {
		t.Errorf("the keys are %+v, %v", keys, err)
	}
}

func TestAKeyThatEndsSoonWarnsWhereItRotates(t *testing.T) {
	s := newSite(t)
	key, text := s.addKey(storage.APIKey{Lifetime: time.Hour})
	if w, _ := s.keys(http.MethodPost, "/auth/apikey/rotate", "", bearer(text)...); w.Code != http.StatusCreated || !strings.Contains(w.Header().Get("Warning"), key.ID) {
		t.Errorf("%d, %v", w.Code, w.Header())
	}
}
