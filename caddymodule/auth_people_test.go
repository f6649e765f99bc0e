package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
)

// decided returns what comes of a request that read on team/app is needed for.
func (s site) decided(header http.Header) string {
	s.t.Helper()
	return s.send(header, http.MethodGet, "/v2/team/app/tags/list").refusal()
}

const (
	mayRead    = "404 NAME_UNKNOWN"
	mayNotRead = "403 DENIED"
	isNobody   = "401 UNAUTHORIZED"
)

// TestWhatTheProviderSaysOfPeopleIsAskedAgain while they are signed in, and counts for
// their sessions, keys and tokens. An outage changes nothing, and only a clear no ends them.
func TestWhatTheProviderSaysOfPeopleIsAskedAgain(t *testing.T) {
	idp := oidctest.New(t)
	team := oidctest.Claims{"groups": []string{"team"}}
	idp.SetUser("alice", team)
	g := runGuarded(t, provider("idp", idp, "refresh 1s", "scopes openid profile offline_access")+"policy ** {\ngroup team read\n}")
	session := g.signIn("idp")
	key := madeKey(t, g.send(session, http.MethodPost, "/auth/apikey")).APIKey
	who := map[string]http.Header{"the session": session, "the key": bearer(key), "a token": bearer(g.token(bearer(key), "repository:team/app:pull"))}
	awaitAll := func(want map[string]string) {
		t.Helper()
		for name, header := range who {
			await(t, name+" is answered "+want[name], func() bool { return g.decided(header) == want[name] })
		}
	}
	all := func(want string) map[string]string {
		return map[string]string{"the session": want, "the key": want, "a token": want}
	}
	awaitAll(all(mayRead))
	idp.SetUser("alice", nil)
	awaitAll(all(mayNotRead))
	idp.SetUser("alice", team)
	awaitAll(all(mayRead))
	for name, outage := range map[string]http.HandlerFunc{
		"an error": oidctest.Status(http.StatusInternalServerError), "a limit": oidctest.Status(http.StatusTooManyRequests),
		"a change of the client's secret": oidctest.OAuthError(http.StatusUnauthorized, "invalid_client", "no"),
	} {
		before := idp.Requests(oidctest.Token)
		idp.Handle(oidctest.Token, outage)
		await(t, "it was asked during "+name, func() bool { return idp.Requests(oidctest.Token) > before+1 })
		for who, header := range who {
			if got := g.decided(header); got != mayRead {
				t.Errorf("%s, during %s: %s", who, name, got)
			}
		}
	}
	idp.Handle(oidctest.Token, nil)
	idp.Disable("alice")
	awaitAll(all(isNobody))
	if a := g.send(bearer(key), http.MethodGet, "/v2/"); !strings.Contains(a.message(), "revoked") {
		t.Errorf("the key: %d %s", a.status, a.body)
	}
	if lines := g.log("registry.audit", "person_ended"); len(lines) != 1 || lines[0]["user"] != "alice" {
		t.Errorf("audited: %v", lines)
	}
	// To be let in again brings no old key back.
	idp.SetUser("alice", team)
	if got := g.decided(g.signIn("idp")); got != mayRead {
		t.Errorf("a new session: %s", got)
	}
	for name, header := range who {
		if got := g.decided(header); got != isNobody {
			t.Errorf("%s, after signing in again: %s", name, got)
		}
	}
}

// TestGroupsAreThoseOfTheLastSignIn where the provider gives no refresh token.
func TestGroupsAreThoseOfTheLastSignIn(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", oidctest.Claims{"groups": []string{"team"}})
	g := runGuarded(t, provider("idp", idp)+"policy ** {\ngroup team read\n}")
	first := g.signIn("idp")
	key := madeKey(t, g.send(first, http.MethodPost, "/auth/apikey")).APIKey
	token := g.token(bearer(key), "repository:team/app:pull")
	idp.SetUser("alice", oidctest.Claims{"groups": []string{"others"}})
	if got := g.decided(bearer(key)); got != mayRead {
		t.Errorf("before signing in again: %s", got)
	}
	second := g.signIn("idp")
	for name, header := range map[string]http.Header{"the first session": first, "the second": second, "the key": bearer(key), "its token": bearer(token)} {
		if got := g.decided(header); got != mayNotRead {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestNamesakesShareNoKeys since somebody is an issuer's subject, whatever the name.
func TestNamesakesShareNoKeys(t *testing.T) {
	idp := oidctest.New(t)
	idp.SetUser("alice", nil)
	idp.SetUser("another", oidctest.Claims{"preferred_username": "alice"})
	g := runGuarded(t, provider("idp", idp)+"policy ** {\nuser alice read\n}")
	first := g.signIn("idp")
	key := madeKey(t, g.send(first, http.MethodPost, "/auth/apikey"))
	idp.SignInAs("another")
	second := g.signIn("idp")
	if keys := g.listKeys(second, "/auth/apikey"); len(keys) != 0 {
		t.Errorf("the namesake sees %+v", keys)
	}
	if a := g.send(second, http.MethodDelete, "/auth/apikey?id="+key.UUID); a.status != http.StatusNotFound {
		t.Errorf("the namesake revokes: %d %s", a.status, a.body)
	}
	if keys := g.listKeys(first, "/auth/apikey"); len(keys) != 1 || keys[0].IsRevoked {
		t.Errorf("the first has %+v", keys)
	}
}

// TestPeopleOfAnotherSitesProviderAreNobodyHere has two sites of one server, each with a
// provider of its own, where somebody else has the same name. What was made on one site
// proves nothing on the other; only keys of the command line are the whole server's.
func TestPeopleOfAnotherSitesProviderAreNobodyHere(t *testing.T) {
	here, there := oidctest.New(t), oidctest.New(t)
	for _, idp := range []*oidctest.Server{here, there} {
		idp.SetUser("alice", oidctest.Claims{"groups": []string{"admins"}})
	}
	const policy = "policy ** {\nuser alice read\ngroup admins read\ngroup artifact-workloads read\n}\n"
	jobsHere, jobsThere := startForge(t), startForge(t)
	g, other := newGuarded(t), newSite(t)
	g.more = other.caddyfile("registry_auth {\n" + provider("idp", there) + jobsThere.option() + policy + "}\nregistry_ui\nregistry")
	g.run(provider("idp", here) + jobsHere.option() + policy)
	session := g.signIn("idp")
	key := madeKey(t, g.send(session, http.MethodPost, "/auth/apikey")).APIKey
	job := bearer(jobsHere.jobToken("eblume/app", nil))
	jobKey := madeKey(t, g.send(job, http.MethodPost, "/auth/apikey")).APIKey
	for name, header := range map[string]http.Header{
		"a session": session, "a key": bearer(key), "a token": bearer(g.token(bearer(key), "repository:team/app:pull")),
		"a job": job, "a job's key": bearer(jobKey), "a job's token": bearer(g.token(job, "repository:team/app:pull")),
	} {
		if got := g.decided(header); got != mayRead {
			t.Errorf("%s: %s", name, got)
		}
		if got := other.decided(header); got != isNobody {
			t.Errorf("%s, on the other site: %s", name, got)
		}
	}
	everywhere := bearer(g.key("root", "--group", "admins"))
	for name, s := range map[string]site{"one site": g.site, "the other": other} {
		if got := s.decided(everywhere); got != mayRead {
			t.Errorf("a key of the command line, on %s: %s", name, got)
		}
	}
}

// TestPeopleAreSomebodyWhereNobodySignsIn as long as it is clear who they are: on a site
// without a provider the only one of the others is meant, and none if there are two.
func TestPeopleAreSomebodyWhereNobodySignsIn(t *testing.T) {
	here, there := oidctest.New(t), oidctest.New(t)
	for _, idp := range []*oidctest.Server{here, there} {
		idp.SetUser("alice", oidctest.Claims{"groups": []string{"admins"}})
	}
	const policy = "policy ** {\ngroup admins read\n}\n"
	g, without, third := newGuarded(t), newSite(t), newSite(t)
	more := without.caddyfile("registry_auth {\n" + policy + "}\nregistry_ui\nregistry")
	g.more = more
	g.run(provider("idp", here) + policy)
	session := g.signIn("idp")
	key := bearer(madeKey(t, g.send(session, http.MethodPost, "/auth/apikey")).APIKey)
	for name, header := range map[string]http.Header{"a session": session, "a key": key} {
		if got := without.decided(header); got != mayRead {
			t.Errorf("%s, with one provider: %s", name, got)
		}
	}
	g.more = more + third.caddyfile("registry_auth {\n"+provider("idp", there)+policy+"}\nregistry")
	g.run(provider("idp", here) + policy)
	for name, header := range map[string]http.Header{"a session": session, "a key": key} {
		if got := without.decided(header); got != isNobody {
			t.Errorf("%s, with two providers: %s", name, got)
		}
		if got := g.decided(header); got != mayRead {
			t.Errorf("%s, where it is from: %s", name, got)
		}
	}
}

// TestPeopleOfAProviderThatIsGoneAreNobody after a reload without it.
func TestPeopleOfAProviderThatIsGoneAreNobody(t *testing.T) {
	g, _ := runWithProvider(t)
	session := g.signIn("idp")
	key := madeKey(t, g.send(session, http.MethodPost, "/auth/apikey")).APIKey
	g.run("policy ** {\nauthenticated read\n}")
	for name, header := range map[string]http.Header{"a session": session, "a key": bearer(key)} {
		if got := g.decided(header); got != isNobody {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestPeopleWhoWereNamedAnotherWayAreNobody until they sign in again: what policies knew
// them by was read from other claims, or had no prefix.
func TestPeopleWhoWereNamedAnotherWayAreNobody(t *testing.T) {
	g, idp := runWithProvider(t)
	session := g.signIn("idp")
	key := bearer(madeKey(t, g.send(session, http.MethodPost, "/auth/apikey")).APIKey)
	const policy = "policy ** {\nauthenticated read\n}"
	for _, option := range []string{"prefix two-", "username_claim sub", "groups_claim roles"} {
		g.run(provider("idp", idp, option) + policy)
		for name, header := range map[string]http.Header{"a session": session, "a key": key} {
			if got := g.decided(header); got != isNobody {
				t.Errorf("%s, with %s: %s", name, option, got)
			}
		}
	}
	g.run(provider("idp", idp, "prefix two-") + policy)
	g.signIn("idp")
	if got := g.decided(key); got != mayRead {
		t.Errorf("a key whose owner signed in again: %s", got)
	}
}

// TestRotationKeepsNoKeyAliveLonger than it was to live by itself.
func TestRotationKeepsNoKeyAliveLonger(t *testing.T) {
	g := runGuarded(t, "policy ** {\nauthenticated read\n}")
	key := g.key("ci", "--expires", "2s")
	next := madeKey(t, g.send(bearer(key), http.MethodPost, "/auth/apikey/rotate"))
	if lifetime := next.ExpirationDate.Sub(next.CreatedAt); lifetime != 2*time.Second {
		t.Errorf("its successor lasts %s", lifetime)
	}
	await(t, "the old key expires", func() bool {
		a := g.send(bearer(key), http.MethodGet, "/v2/")
		return a.status == http.StatusUnauthorized && strings.Contains(a.message(), "expired")
	})
	if a := g.send(bearer(key), http.MethodPost, "/auth/apikey/rotate"); a.status != http.StatusUnauthorized {
		t.Errorf("rotating it then: %d %s", a.status, a.body)
	}
}

// TestAnUploadIsItsRepositorys whoever knows its id.
func TestAnUploadIsItsRepositorys(t *testing.T) {
	g := runGuarded(t, "policy team/** {\nuser ci read create\n}\npolicy ** {\nuser root read create\n}")
	ci := bearer(g.key("ci"))
	upload := g.open.startUpload("secret/app")
	moved := strings.Replace(upload, "secret/app", "team/app", 1)
	for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
		if a := g.send(ci, method, moved, 'x'); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", method, a.status, a.body)
		}
	}
	if a := g.open.get(upload); a.status != http.StatusNoContent || a.header.Get("Range") != "0-0" {
		t.Errorf("the upload: %d %v", a.status, a.header)
	}
}
