package caddymodule_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// signingIn is a browser on its way to be signed in.
type signingIn struct {
	site
	idp      *oidctest.Server
	callback string
	cookies  http.Header // of the attempt
	back     url.Values  // what the provider sent it back with
}

// beginLogin sends a browser to a provider, which sends it back, and stops there.
func (s site) beginLogin(idp *oidctest.Server, header http.Header, path string) signingIn {
	s.t.Helper()
	a := s.send(header, http.MethodGet, path)
	target := a.header.Get("Location")
	location, err := url.Parse(target)
	if err != nil || a.status != http.StatusSeeOther || !strings.HasPrefix(target, idp.URL()+oidctest.Authorize) {
		s.t.Fatalf("%s: %d, %q", path, a.status, target)
	}
	callback, err := url.Parse(location.Query().Get("redirect_uri"))
	if err != nil {
		s.t.Fatal(err)
	}
	in := signingIn{site: s, idp: idp, callback: callback.Path, cookies: make(http.Header), back: idp.Authorize(s.t, target)}
	for _, c := range (&http.Response{Header: a.header}).Cookies() {
		in.cookies.Add("Cookie", c.Name+"="+c.Value)
	}
	if len(in.cookies["Cookie"]) != 1 {
		s.t.Fatalf("cookies %q", a.header["Set-Cookie"])
	}
	return in
}

// finish comes back with what the provider said.
func (in signingIn) finish(header http.Header, back url.Values) answer {
	in.t.Helper()
	return in.send(header, http.MethodGet, in.callback+"?"+back.Encode())
}

// refusesLogin checks that nobody is signed in, and that people are told so.
func (s site) refusesLogin(what string, a answer, says string) {
	s.t.Helper()
	if a.status < 400 || a.status >= 500 || a.cookieOf(sessionCookie) != nil || a.header.Get("Location") != "" || !strings.Contains(a.body, says) || !strings.Contains(a.body, `role="alert"`) {
		s.t.Errorf("%s: %d, %q, %q: %s", what, a.status, a.header["Set-Cookie"], a.header.Get("Location"), a.body)
	}
}

// isSignedIn reports whether what a browser sends is a session.
func (s site) isSignedIn(header http.Header) bool {
	return s.send(header, http.MethodGet, "/auth/apikey").status == http.StatusOK
}

func runWithProvider(t *testing.T) (*guarded, *oidctest.Server) {
	t.Helper()
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	return runGuarded(t, provider("idp", idp)+"policy ** {\nauthenticated read\n}"), idp
}

func TestAStateIsTakenOnce(t *testing.T) {
	g, idp := runWithProvider(t)
	in := g.beginLogin(idp, nil, "/auth/login/idp")
	first := in.finish(in.cookies, in.back)
	session := first.cookieOf(sessionCookie)
	if first.status != http.StatusSeeOther || session == nil {
		t.Fatalf("%d %s", first.status, first.body)
	}
	again := idp.Authorize(t, g.send(nil, http.MethodGet, "/auth/login/idp").header.Get("Location"))
	again.Set("state", in.back.Get("state"))
	g.refusesLogin("the same again", in.finish(in.cookies, in.back), "has been used already")
	g.refusesLogin("with another code", in.finish(in.cookies, again), "has been used already")
	if !g.isSignedIn(cookie(session.Name, session.Value)) {
		t.Error("the first session has ended")
	}
}

func TestACodeIsTakenOnce(t *testing.T) {
	g, idp := runWithProvider(t)
	used, in := g.beginLogin(idp, nil, "/auth/login/idp"), g.beginLogin(idp, nil, "/auth/login/idp")
	if a := used.finish(used.cookies, used.back); a.status != http.StatusSeeOther {
		t.Fatalf("%d %s", a.status, a.body)
	}
	in.back.Set("code", used.back.Get("code"))
	g.refusesLogin("another's code", in.finish(in.cookies, in.back), "did not sign you in")
}

// TestASignInOfAnotherBrowserIsRefused has somebody send another person, by a link, to the
// end of their own way to be signed in.
func TestASignInOfAnotherBrowserIsRefused(t *testing.T) {
	g, idp := runWithProvider(t)
	mallory, victim := g.beginLogin(idp, nil, "/auth/login/idp"), g.beginLogin(idp, nil, "/auth/login/idp")
	const says = "not begun in this browser"
	g.refusesLogin("without a cookie", mallory.finish(nil, mallory.back), says)
	g.refusesLogin("with the cookie of another attempt", mallory.finish(victim.cookies, mallory.back), says)
	name, value, _ := strings.Cut(mallory.cookies.Get("Cookie"), "=")
	_, other, _ := strings.Cut(victim.cookies.Get("Cookie"), "=")
	g.refusesLogin("with another attempt's cookie by its name", mallory.finish(cookie(name, other), mallory.back), says)
	g.refusesLogin("with a cookie that was cut", mallory.finish(cookie(name, value[:len(value)-4]), mallory.back), says)
	g.refusesLogin("without a state", mallory.finish(mallory.cookies, url.Values{"code": mallory.back["code"]}), says)
	mixed := url.Values{"state": victim.back["state"], "code": mallory.back["code"], "iss": victim.back["iss"]}
	g.refusesLogin("the victim's state and another's code", victim.finish(victim.cookies, mixed), "did not sign you in")
}

func TestAnAnswerOfAnotherIssuerIsRefused(t *testing.T) {
	g, idp := runWithProvider(t)
	in := g.beginLogin(idp, nil, "/auth/login/idp")
	in.back.Set("iss", "https://evil.example")
	g.refusesLogin("another iss", in.finish(in.cookies, in.back), "did not sign you in")
}

func TestARefusalOfTheProviderIsTold(t *testing.T) {
	g, idp := runWithProvider(t)
	idp.Disable("alice")
	in := g.beginLogin(idp, nil, "/auth/login/idp")
	in.back.Set("error_description", "<script>alert(1)</script>")
	a := in.finish(in.cookies, in.back)
	g.refusesLogin("access_denied", a, "access_denied")
	if strings.Contains(a.body, "<script>alert") {
		t.Errorf("what the provider says is taken for markup: %s", a.body)
	}
}

// TestASessionCannotBeFixed has somebody put a cookie into another person's browser before
// that signs in.
func TestASessionCannotBeFixed(t *testing.T) {
	g, idp := runWithProvider(t)
	const planted = "KNOWNTOMALLORYKNOWNTOMALLORY"
	old := g.signIn("idp")
	for name, before := range map[string]http.Header{"a made-up secret": cookie(sessionCookie, planted), "mallory's own session": old} {
		in := g.beginLogin(idp, before, "/auth/login/idp")
		header := in.cookies.Clone()
		header["Cookie"] = append(header["Cookie"], before["Cookie"]...)
		c := in.finish(header, in.back).cookieOf(sessionCookie)
		if c == nil || strings.HasSuffix(before.Get("Cookie"), c.Value) || len(c.Value) < 26 {
			t.Fatalf("%s: %v", name, c)
		}
		if g.isSignedIn(before) || !g.isSignedIn(cookie(c.Name, c.Value)) {
			t.Errorf("%s: it is a session after signing in: %v", name, g.isSignedIn(before))
		}
	}
}

func TestSigningOutEndsTheSession(t *testing.T) {
	g, idp := runWithProvider(t)
	session := g.signIn("idp")
	a := g.post(session, "/auth/logout", nil)
	c := a.cookieOf(sessionCookie)
	if a.status != http.StatusSeeOther || c == nil || c.Value != "" || c.MaxAge >= 0 {
		t.Errorf("%d, %v", a.status, c)
	}
	if target := a.header.Get("Location"); !strings.HasPrefix(target, idp.URL()+oidctest.EndSession+"?") {
		t.Errorf("sent to %q, want the provider", target)
	}
	if g.isSignedIn(session) {
		t.Error("the cookie still works")
	}
	if a := g.send(session, http.MethodGet, "/v2/team/app/tags/list"); a.refusal() != "401 UNAUTHORIZED" {
		t.Errorf("a session that has ended: %d %s", a.status, a.body)
	}
}

// TestSigningInLeadsToNoOtherSite has links that pretend to be this site's.
func TestSigningInLeadsToNoOtherSite(t *testing.T) {
	g, idp := runWithProvider(t)
	key := g.key("ci")
	signedIn := g.signIn("idp")
	for _, wanted := range []string{
		"https://evil.example/", "//evil.example/", "///evil.example", `/\evil.example`, `\\evil.example`, "/\t/evil.example", "/\n/evil.example",
		"https:evil.example", "javascript:alert(1)", "/%2f%2fevil.example", "/.//evil.example", "/..//evil.example", "//evil.example/%2e%2e",
		"http:///evil.example", "/@evil.example", "@evil.example", ".evil.example", ":80@evil.example", "/%5cevil.example", "\x00//evil.example", "", "evil",
	} {
		query := url.Values{"return": {wanted}}
		in := g.beginLogin(idp, nil, "/auth/login/idp?"+query.Encode())
		locations := []string{
			g.send(signedIn, http.MethodGet, "/login?"+query.Encode()).header.Get("Location"),
			g.post(nil, "/auth/session", url.Values{"key": {key}, "return": {wanted}}).header.Get("Location"),
			in.finish(in.cookies, in.back).header.Get("Location"),
		}
		for i, location := range locations {
			if !isLocal(location) {
				t.Errorf("way %d: return=%q leads to %q", i+1, wanted, location)
			}
		}
	}
	for _, wanted := range []string{"/user/apikey", "/repo/team/app?ref=v1", "/a%2fb"} {
		query := url.Values{"return": {wanted}}
		in := g.beginLogin(idp, nil, "/auth/login/idp?"+query.Encode())
		if location := in.finish(in.cookies, in.back).header.Get("Location"); location != wanted {
			t.Errorf("return=%q leads to %q", wanted, location)
		}
	}
}

// isLocal reports whether a browser stays on the site: it reads a backslash as a slash,
// and drops tabs and line breaks.
func isLocal(location string) bool {
	seen := strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(location)
	return strings.HasPrefix(seen, "/") && !strings.HasPrefix(seen, "//")
}

// TestNoSecretIsLogged looks for what proves who somebody is in all that is logged.
func TestNoSecretIsLogged(t *testing.T) {
	idp, jobs := oidctest.New(t), startForge(t)
	idp.SetUser("alice", nil)
	g := newGuarded(t)
	g.beside = "log\nregistry_ui"
	g.run(provider("idp", idp) + jobs.option() + "policy ** {\nauthenticated read create\n}")
	key, job := g.key("ci"), jobs.jobToken("eblume/app", nil)
	in := g.beginLogin(idp, nil, "/auth/login/idp")
	session := in.finish(in.cookies, in.back).cookieOf(sessionCookie).Value
	token := g.token(basic("ci", key), "repository:team/app:pull")
	secrets := []string{key, job, token, session, in.back.Get("code"), in.back.Get("state"), oidctest.ClientSecret}
	for _, header := range []http.Header{basic("ci", key), bearer(key), bearer(token), bearer(job), cookie(sessionCookie, session), bearer(key + "x"), basic("other", key)} {
		g.send(header, http.MethodGet, "/v2/team/app/tags/list")
		g.send(header, http.MethodGet, "/auth/apikey")
	}
	made := g.send(cookie(sessionCookie, session), http.MethodPost, "/auth/apikey", []byte(`{"label":"x"}`)...)
	secrets = append(secrets, madeKey(t, made).APIKey)
	rotated := g.send(bearer(key), http.MethodPost, "/auth/apikey/rotate")
	secrets = append(secrets, madeKey(t, rotated).APIKey)
	g.post(nil, "/auth/session", url.Values{"key": {key}})
	g.post(nil, "/auth/session", url.Values{"key": {key + "x"}})
	g.post(nil, "/auth/token", url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {key}, "scope": {"repository:a:pull"}})
	g.post(cookie(sessionCookie, session), "/auth/logout", nil)
	content := g.logText()
	for _, secret := range secrets {
		if secret == "" || slices.ContainsFunc([]string{secret, url.QueryEscape(secret)}, func(s string) bool { return strings.Contains(content, s) }) {
			t.Errorf("%q is in the log", secret)
		}
	}
}
