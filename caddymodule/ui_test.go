package caddymodule_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

var (
	formID  = regexp.MustCompile(`name="form" value="([^"]+)"`)
	newKey  = regexp.MustCompile(`crk_[0-9A-Za-z]{38}`)
	keyUUID = regexp.MustCompile(`name="key" value="([^"]+)"`)
)

// find returns what a page has at a place, or fails.
func (a answer) find(t *testing.T, what *regexp.Regexp) string {
	t.Helper()
	match := what.FindStringSubmatch(a.body)
	if match == nil {
		t.Fatalf("no %s in %d %s", what, a.status, a.said())
	}
	return match[len(match)-1]
}

var notice = regexp.MustCompile(`role="(?:alert|status)"><p>([^<]*)`)

// said returns what a page tells.
func (a answer) said() string {
	var all []string
	for _, match := range notice.FindAllStringSubmatch(a.body, -1) {
		all = append(all, match[1])
	}
	return strings.Join(all, " ")
}

func TestPagesLeadToSigningIn(t *testing.T) {
	g, _ := runWithProvider(t)
	session := g.signIn("idp")
	home, login := g.get("/"), g.get("/login?return=/user/apikey")
	for path, a := range map[string]answer{"/": home, "/login": login} {
		for _, words := range []string{"SIGN IN WITH OIDC", "With an API key", `action="/auth/session"`} {
			if a.status != http.StatusOK || !strings.Contains(a.body, words) {
				t.Errorf("%s: %d, no %s", path, a.status, words)
			}
		}
	}
	if !strings.Contains(login.body, `href="/auth/login/idp?return=%2Fuser%2Fapikey"`) || !strings.Contains(login.body, `name="return" value="/user/apikey"`) {
		t.Errorf("where to go on is lost: %s", login.body)
	}
	for path, want := range map[string]string{"/user/apikey": "/login?return=%2Fuser%2Fapikey"} {
		if a := g.send(nil, http.MethodGet, path); a.status != http.StatusSeeOther || a.header.Get("Location") != want {
			t.Errorf("%s without a session: %d, %q", path, a.status, a.header.Get("Location"))
		}
	}
	for path, want := range map[string]string{"/": "/user/apikey", "/login?return=/user/apikey": "/user/apikey", "/login": "/"} {
		if a := g.send(session, http.MethodGet, path); a.status != http.StatusSeeOther || a.header.Get("Location") != want || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s with a session: %d, %v", path, a.status, a.header)
		}
	}
	if a := g.send(session, http.MethodGet, "/user/apikey"); a.status != http.StatusOK || !strings.Contains(a.body, "<bdi>alice</bdi>") || !strings.Contains(a.body, `action="/auth/logout"`) {
		t.Errorf("the page of keys: %d %s", a.status, a.said())
	}
}

// TestPagesAllowNothingFromElsewhere looks at their headers and at what they link to.
func TestPagesAllowNothingFromElsewhere(t *testing.T) {
	g, idp := runWithProvider(t)
	session := g.signIn("idp")
	asset := regexp.MustCompile(`(?:href|src)="(/[^"]+\.(?:css|js|svg))"`)
	for path, header := range map[string]http.Header{"/": nil, "/login": nil, "/user/apikey": session} {
		a := g.send(header, http.MethodGet, path)
		policy := a.header.Get("Content-Security-Policy")
		for _, words := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, words) {
				t.Errorf("%s: the policy %q has no %s", path, policy, words)
			}
		}
		if strings.Contains(policy, "unsafe") || (path == "/user/apikey") != strings.Contains(policy, idp.URL()) {
			t.Errorf("%s: the policy %q", path, policy)
		}
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %v", path, a.header)
		}
		found := asset.FindAllStringSubmatch(a.body, -1)
		if len(found) < 3 {
			t.Errorf("%s: assets %q", path, found)
		}
		for _, match := range found {
			if a := g.get(match[1]); a.status != http.StatusOK || a.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %d %v", match[1], a.status, a.header)
			}
		}
	}
}

func TestOthersPathsAreNotThePages(t *testing.T) {
	g := newGuarded(t)
	g.beside = "registry_ui\nrespond \"below\""
	g.run("policy ** {\nanonymous read\n}")
	for _, path := range []string{"/other", "/login/x", "/user/apikey/x", "/user", "/auth/other", "/auth/login/none", "/auth/callback/none", "/zot/auth/apikey/x"} {
		if a := g.get(path); a.body != "below" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	// Without access control there is nothing to sign in to.
	s := runSite(t, "registry_ui\nregistry\nrespond below")
	for _, path := range []string{"/", "/login", "/user/apikey", "/auth/apikey", "/auth/token"} {
		if a := s.get(path); a.body != "below" {
			t.Errorf("%s without access control: %d %s", path, a.status, a.body)
		}
	}
}

// TestAnotherHandlersPasswordIsNotThePages has a site that asks for Basic credentials too.
func TestAnotherHandlersPasswordIsNotThePages(t *testing.T) {
	g, _ := runWithProvider(t)
	header := g.signIn("idp")
	header.Set("Authorization", basic("somebody", "else").Get("Authorization"))
	if a := g.send(header, http.MethodGet, "/user/apikey"); a.status != http.StatusOK || !strings.Contains(a.body, "<bdi>alice</bdi>") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestAKeyIsShownOnceByThePageThatMadeIt and by no other, also if the form is sent again.
func TestAKeyIsShownOnceByThePageThatMadeIt(t *testing.T) {
	g, _ := runWithProvider(t)
	session := g.signIn("idp")
	form := func(a answer, more url.Values) url.Values {
		values := url.Values{"do": {"create"}, "form": {a.find(t, formID)}}
		for name, value := range more {
			values[name] = value
		}
		return values
	}
	wrong := g.post(session, "/user/apikey", form(g.send(session, http.MethodGet, "/user/apikey"), url.Values{"label": {"<b>ci"}, "scopes": {"read:team/**\nnonsense"}}))
	if wrong.status != http.StatusBadRequest || !strings.Contains(wrong.body, "nonsense") || !strings.Contains(wrong.body, `value="&lt;b&gt;ci"`) || newKey.MatchString(wrong.body) {
		t.Errorf("a wrong scope: %d %s", wrong.status, wrong.said())
	}
	right := form(wrong, url.Values{"label": {"ci"}, "scopes": {" read:team/** \r\n\r\ncreate:team/**"}})
	made := g.post(session, "/user/apikey", right)
	key := made.find(t, newKey)
	if made.status != http.StatusOK || made.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", made.status, made.header)
	}
	again := g.post(session, "/user/apikey", right)
	if again.status != http.StatusConflict || newKey.MatchString(again.body) {
		t.Errorf("the same form again: %d %s", again.status, again.said())
	}
	if a := g.send(session, http.MethodGet, "/user/apikey"); strings.Contains(a.body, key) || !strings.Contains(a.body, "ci") || !strings.Contains(a.body, "create:team/**") {
		t.Errorf("the page later: %s", a.body)
	}
	if keys := g.listKeys(session, "/auth/apikey"); len(keys) != 1 || keys[0].Label != "ci" || len(keys[0].Scopes) != 2 {
		t.Errorf("keys: %+v", keys)
	}
	if a := g.send(basic("alice", key), http.MethodGet, "/v2/"); a.status != http.StatusOK {
		t.Errorf("the key: %d %s", a.status, a.body)
	}
}

func TestKeysAreRotatedAndRevokedOnTheirPage(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	idp.SetUser("bob", nil)
	g := runGuarded(t, provider("idp", idp)+"policy ** {\nauthenticated read\n}")
	alice := g.signIn("idp")
	idp.SignInAs("bob")
	bob := g.signIn("idp")
	old := madeKey(t, g.send(alice, http.MethodPost, "/auth/apikey", []byte(`{"label":"ci"}`)...))
	page := g.send(alice, http.MethodGet, "/user/apikey")
	if id := page.find(t, keyUUID); id != old.UUID {
		t.Errorf("the page has the key %s, want %s", id, old.UUID)
	}
	post := func(who http.Header, do, id string) answer {
		form := g.send(who, http.MethodGet, "/user/apikey").find(t, formID)
		return g.post(who, "/user/apikey", url.Values{"do": {do}, "key": {id}, "form": {form}})
	}
	for _, do := range []string{"rotate", "revoke"} {
		if a := post(bob, do, old.UUID); a.status != http.StatusNotFound || newKey.MatchString(a.body) {
			t.Errorf("bob, %s: %d %s", do, a.status, a.said())
		}
	}
	if a := post(alice, "explode", old.UUID); a.status != http.StatusBadRequest {
		t.Errorf("nothing known: %d %s", a.status, a.said())
	}
	rotated := post(alice, "rotate", old.UUID)
	next := rotated.find(t, newKey)
	if a := post(alice, "revoke", old.UUID); a.status != http.StatusOK || !strings.Contains(a.body, `role="status"`) {
		t.Errorf("revoking: %d %s", a.status, a.said())
	}
	for key, want := range map[string]int{old.APIKey: http.StatusUnauthorized, next: http.StatusOK} {
		if a := g.send(bearer(key), http.MethodGet, "/v2/"); a.status != want {
			t.Errorf("a key, want %d: %d %s", want, a.status, a.body)
		}
	}
}

// TestABrowserSignsInWithAKey which then may do what the key may, but makes no other.
func TestABrowserSignsInWithAKey(t *testing.T) {
	g := runGuarded(t, "policy ** {\nuser ci read\n}")
	key := g.key("ci", "--scope", "read:team/**")
	for name, text := range map[string]string{"a wrong one": "crk_wrong", "an unknown one": "zak_unknown", "none": "", "a page": "<script>alert(1)</script>"} {
		a := g.post(nil, "/auth/session", url.Values{"key": {text}, "return": {"/user/apikey"}})
		g.refusesLogin(name, a, "You are not signed in")
		if strings.Contains(a.body, "<script>alert") || !strings.Contains(a.body, `name="return" value="/user/apikey"`) {
			t.Errorf("%s: %s", name, a.body)
		}
	}
	a := g.post(nil, "/auth/session", url.Values{"key": {" " + key + "\n"}, "return": {"/user/apikey"}})
	c := a.cookieOf(sessionCookie)
	if a.status != http.StatusSeeOther || a.header.Get("Location") != "/user/apikey" || c == nil {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	session := cookie(c.Name, c.Value)
	if a := g.send(session, http.MethodGet, "/v2/team/app/tags/list"); a.status != http.StatusNotFound {
		t.Errorf("what the key may: %d %s", a.status, a.body)
	}
	if a := g.send(session, http.MethodGet, "/v2/other/app/tags/list"); a.refusal() != "403 DENIED" {
		t.Errorf("what it may not: %d %s", a.status, a.body)
	}
	page := g.send(session, http.MethodGet, "/user/apikey")
	if page.status != http.StatusOK || strings.Contains(page.body, "Generate a new key") || !strings.Contains(page.body, "read:team/**") {
		t.Errorf("the page of keys: %d %s", page.status, page.said())
	}
	if a := g.post(session, "/user/apikey", url.Values{"do": {"create"}, "form": {"x"}}); a.status != http.StatusForbidden || newKey.MatchString(a.body) {
		t.Errorf("another key: %d %s", a.status, a.said())
	}
	if _, err := g.command("apikey", "revoke", page.find(t, keyUUID)); err != nil {
		t.Fatal(err)
	}
	if a := g.send(session, http.MethodGet, "/v2/team/app/tags/list"); a.refusal() != "401 UNAUTHORIZED" {
		t.Errorf("after the key was revoked: %d %s", a.status, a.body)
	}
	for path, method := range map[string]string{"/auth/session": http.MethodGet, "/auth/logout": http.MethodGet} {
		if a := g.send(nil, method, path); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "POST" {
			t.Errorf("%s %s: %d %v", method, path, a.status, a.header)
		}
	}
}
