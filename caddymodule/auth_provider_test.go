package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// TestACallbackHasItsPathAsConfigured uses the one that zot has.
func TestACallbackHasItsPathAsConfigured(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	g := runGuarded(t, provider("authentik", idp, "callback_path /zot/auth/callback/oidc")+"policy ** {\nuser alice read\n}")
	in := g.beginLogin(idp, nil, "/auth/login/authentik")
	if in.callback != "/zot/auth/callback/oidc" {
		t.Errorf("the provider sends people to %s", in.callback)
	}
	if a := g.send(in.cookies, http.MethodGet, "/auth/callback/authentik?"+in.back.Encode()); a.status != http.StatusNotFound && a.body != "" {
		t.Errorf("the usual path: %d %s", a.status, a.body)
	}
	a := in.finish(in.cookies, in.back)
	c := a.cookieOf(sessionCookie)
	if a.status != http.StatusSeeOther || c == nil {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := g.send(cookie(c.Name, c.Value), http.MethodGet, "/v2/team/app/tags/list"); a.status != http.StatusNotFound {
		t.Errorf("as alice: %d %s", a.status, a.body)
	}
}

// TestPublicURLIsWhereProvidersSendPeople has a browser that came by another name.
func TestPublicURLIsWhereProvidersSendPeople(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	g := runGuarded(t, provider("idp", idp)+"public_url https://registry.example\npolicy ** {\nuser alice read\n}")
	a := g.send(nil, http.MethodGet, "/auth/login/idp?return=/user/apikey")
	if location := a.header.Get("Location"); !strings.HasPrefix(location, "https://registry.example/auth/login/idp?") || !strings.Contains(location, "return=%2Fuser%2Fapikey") {
		t.Errorf("%d, %q", a.status, location)
	}
	if a.header["Set-Cookie"] != nil {
		t.Errorf("cookies %q", a.header["Set-Cookie"])
	}
}

// TestPeopleOfSeveralProvidersAreNotMistaken has somebody of the same name at each.
func TestPeopleOfSeveralProvidersAreNotMistaken(t *testing.T) {
	first, second := oidctest.New(t), oidctest.New(t)
	for _, idp := range []*oidctest.Server{first, second} {
		idp.SetUser("alice", oidctest.Claims{"groups": []string{"admins"}})
	}
	g := runGuarded(t, provider("one", first)+provider("two", second, "prefix two-")+
		"policy one/** {\nuser alice read\n}\npolicy two/** {\nuser two-alice read\n}\npolicy admins/** {\ngroup admins read\n}\npolicy others/** {\ngroup two-admins read\n}")
	page := g.get("/login").body
	for _, words := range []string{"SIGN IN WITH OIDC", "SIGN IN WITH TWO", `href="/auth/login/one?return=%2F"`, `href="/auth/login/two?return=%2F"`} {
		if !strings.Contains(page, words) {
			t.Errorf("the page for signing in has no %s", words)
		}
	}
	for name, own := range map[string][]string{"one": {"one/app", "admins/app"}, "two": {"two/app", "others/app"}} {
		session := g.signIn(name)
		for _, repository := range []string{"one/app", "two/app", "admins/app", "others/app"} {
			want := "403 DENIED"
			for _, readable := range own {
				if repository == readable {
					want = "404 NAME_UNKNOWN"
				}
			}
			if a := g.send(session, http.MethodGet, "/v2/"+repository+"/tags/list"); a.refusal() != want {
				t.Errorf("alice of %s, %s: %d %s, want %s", name, repository, a.status, a.body, want)
			}
		}
	}
	// What one began the other does not end.
	in := g.beginLogin(first, nil, "/auth/login/one")
	in.callback = "/auth/callback/two"
	g.refusesLogin("at another provider's path", in.finish(in.cookies, in.back), "not begun in this browser")
}

// TestAPrefixIsNobodyElses has people of the provider without a prefix who call themselves,
// or their groups, as if they came from the other.
func TestAPrefixIsNobodyElses(t *testing.T) {
	first, second := oidctest.New(t), oidctest.New(t)
	first.SetUser("two-alice", nil)
	first.SetUser("mallory", oidctest.Claims{"groups": []string{"two-admins"}})
	g := runGuarded(t, provider("one", first)+provider("two", second, "prefix two-")+"policy ** {\nuser two-alice read\ngroup two-admins read\n}")
	for _, name := range []string{"two-alice", "mallory"} {
		first.SignInAs(name)
		in := g.beginLogin(first, nil, "/auth/login/one")
		c := in.finish(in.cookies, in.back).cookieOf(sessionCookie)
		if c == nil {
			continue // refused as a whole, which is as good
		}
		if a := g.send(cookie(c.Name, c.Value), http.MethodGet, "/v2/team/app/tags/list"); a.refusal() != "403 DENIED" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// TestAProviderThatIsDownStopsOnlySignIns begins with it down, has it come up, and go down
// again.
func TestAProviderThatIsDownStopsOnlySignIns(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	idp.Down()
	g := runGuarded(t, provider("idp", idp)+"policy ** {\nanonymous read\nauthenticated create\n}")
	key := g.key("ci")
	works := func(when string, session http.Header) {
		t.Helper()
		token := g.token(basic("ci", key), "repository:team/app:pull,push")
		for name, header := range map[string]http.Header{"a key": basic("ci", key), "a token": bearer(token), "a session": session} {
			if a := g.send(header, http.MethodPut, "/v2/team/app/manifests/v1", []byte(emptyIndex)...); header != nil && a.status != http.StatusCreated {
				t.Errorf("%s: a push with %s: %d %s", when, name, a.status, a.body)
			}
		}
		if a := g.get("/v2/team/app/manifests/v1"); a.status != http.StatusOK {
			t.Errorf("%s: a pull: %d %s", when, a.status, a.body)
		}
	}
	works("at first", nil)
	if a := g.get("/login"); a.status != http.StatusOK || !strings.Contains(a.body, "cannot be reached now") || !strings.Contains(a.body, "With an API key") {
		t.Errorf("the page for signing in: %d %s", a.status, a.body)
	}
	g.refusesNow("at first")
	idp.Up()
	await(t, "people can sign in", func() bool { return g.send(nil, http.MethodGet, "/auth/login/idp").status == http.StatusSeeOther })
	session := g.signIn("idp")
	works("when it is up", session)
	if a := g.get("/login"); strings.Contains(a.body, "cannot be reached now") {
		t.Errorf("the page for signing in: %s", a.body)
	}
	in := g.beginLogin(idp, nil, "/auth/login/idp")
	idp.Down()
	works("when it is down again", session)
	if a := in.finish(in.cookies, in.back); a.status != http.StatusServiceUnavailable || a.cookieOf(sessionCookie) != nil {
		t.Errorf("the end of signing in: %d, %q", a.status, a.header["Set-Cookie"])
	}
}

func (g *guarded) refusesNow(when string) {
	g.t.Helper()
	a := g.send(nil, http.MethodGet, "/auth/login/idp")
	if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "cannot be reached now") || a.header["Set-Cookie"] != nil {
		g.t.Errorf("%s: signing in: %d %s", when, a.status, a.body)
	}
}

// TestAnIssuerOfJobsThatIsDownIsNoRefusal has a job that may try again.
func TestAnIssuerOfJobsThatIsDownIsNoRefusal(t *testing.T) {
	jobs := startForge(t)
	job := jobs.jobToken("eblume/app", nil)
	option := jobs.option()
	jobs.Close()
	g := runGuarded(t, option+"policy ** {\nauthenticated read\n}")
	a := g.send(bearer(job), http.MethodGet, "/v2/")
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(a.message(), "cannot be verified now") {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := g.send(bearer(g.key("ci")), http.MethodGet, "/v2/"); a.status != http.StatusOK {
		t.Errorf("a key meanwhile: %d %s", a.status, a.body)
	}
}

// TestAReloadChangesPoliciesAtOnce while sessions, keys and tokens live on, and what
// happens is audited.
func TestAReloadChangesPoliciesAtOnce(t *testing.T) {
	g, idp := runWithProvider(t)
	option := provider("idp", idp)
	key, session := g.key("ci"), g.signIn("idp")
	token := g.token(basic("ci", key), "repository:team/app:pull")
	who := map[string]http.Header{"a key": basic("ci", key), "a token": bearer(token), "a session": session}
	check := func(when, want string) {
		t.Helper()
		for name, header := range who {
			if a := g.send(header, http.MethodGet, "/v2/team/app/tags/list"); a.refusal() != want {
				t.Errorf("%s, %s: %d %s, want %s", when, name, a.status, a.body, want)
			}
		}
	}
	check("at first", "404 NAME_UNKNOWN")
	g.run(option + "policy team/** {\nuser root read create\n}")
	check("after it was forbidden", "403 DENIED")
	refused := len(g.log("registry.audit", "refused"))
	if refused < len(who) {
		t.Errorf("%d refusals are audited", refused)
	}
	g.run(option + "policy ** {\nauthenticated read create\n}")
	check("after it was allowed", "404 NAME_UNKNOWN")
	if a := g.send(who["a key"], http.MethodPut, "/v2/team/app/manifests/v1", []byte(emptyIndex)...); a.status != http.StatusCreated {
		t.Errorf("a push: %d %s", a.status, a.body)
	}
	lines := g.log("registry.audit", "push")
	if len(lines) != 1 || lines[0]["user"] != "ci" || lines[0]["repository"] != "team/app" || lines[0]["tag"] != "v1" || lines[0]["address"] != "127.0.0.1" {
		t.Errorf("audited pushes: %v", lines)
	}
	if _, err := g.command("apikey", "create", "--user", "later"); err != nil {
		t.Fatal(err)
	}
	if lines := g.log("registry.audit", "key_made"); len(lines) != 2 || lines[1]["user"] != "later" {
		t.Errorf("audited keys: %v", lines)
	}
}
