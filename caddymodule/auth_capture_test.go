package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

const capturePolicy = "policy blumeops/** docs {\ngroup artifact-workloads read create\nanonymous read\n}\n" +
	"policy ** {\nanonymous read\ngroup artifact-workloads read create\ngroup artifact-workloads update tags latest\ngroup admins read create update delete\n}\n"

// mirrors is a server with a site that mirrors Docker Hub, and another that does not.
type mirrors struct {
	*guarded
	plain     site
	hub       *upstreamtest.Registry
	ci, admin http.Header
}

func runMirrors(t *testing.T, cache string) *mirrors {
	t.Helper()
	m := &mirrors{guarded: newGuarded(t), plain: newSite(t), hub: upstreamtest.Start(t)}
	m.hub.AddImage("grafana/x", "v1", upstreamtest.Bytes(1, 100))
	m.hub.AddImage("library/alpine", "v1", upstreamtest.Bytes(2, 100))
	m.hub.AddImage("blumeops/app", "v1", upstreamtest.Bytes(3, 100))
	m.beside = "registry_cache {\ndefault docker.io\n" + cache + "\n" + cached("docker.io", m.hub) + "}"
	m.more = m.plain.caddyfile("registry_auth {\n" + capturePolicy + "}\nregistry")
	m.run(capturePolicy)
	m.ci, m.admin = bearer(m.key("ci", "--group", "artifact-workloads")), bearer(m.key("root", "--group", "admins"))
	return m
}

func (m *mirrors) sites() map[string]site {
	return map[string]site{"the mirror": m.site, "another site": m.plain}
}

// push tries all that a push consists of.
func (m *mirrors) push(what string, s site, who http.Header, name, want string) {
	m.t.Helper()
	for path, method := range pushRequests(name, "") {
		a := s.send(who, method, path, []byte(emptyIndex)...)
		got := a.refusal()
		if a.status < 300 {
			got = "done"
		}
		if got != want {
			m.t.Errorf("%s: %s %s: %d %s, want %s", what, method, path, a.status, a.body, want)
		}
	}
}

// TestAKeyThatOnlyCreatesCapturesNoName has a CI key, whose push of grafana/x would become
// what all who use the mirror get for it.
func TestAKeyThatOnlyCreatesCapturesNoName(t *testing.T) {
	m := runMirrors(t, "")
	for where, s := range m.sites() {
		m.push(where, s, m.ci, "grafana/x", "403 DENIED")
		m.push(where, s, m.ci, "new/app", "403 DENIED")
		for _, name := range []string{"library/debian", "debian", "docker.io/library/x", "docker.io/grafana/x", "quay.io/x/y"} {
			m.push(where, s, m.ci, name, "405 UNSUPPORTED")
			m.push(where, s, m.admin, name, "405 UNSUPPORTED")
		}
		a := s.send(m.ci, http.MethodPut, "/v2/grafana/x/manifests/latest", []byte(emptyIndex)...)
		if a.refusal() != "403 DENIED" {
			t.Errorf("%s: a tag that it may move: %d %s", where, a.status, a.body)
		}
		for _, words := range []string{"update", "grafana/x", "policy **", "group artifact-workloads read create"} {
			if !strings.Contains(a.message(), words) {
				t.Errorf("%s: %q does not say %q", where, a.message(), words)
			}
		}
	}
	if a := m.open.get("/v2/_catalog"); strings.TrimSpace(a.body) != `{"repositories":[]}` {
		t.Errorf("something was pushed: %s", a.body)
	}
	if n := len(m.hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(m.hub.Requests()))
	}
	// And so it is still the upstream's.
	if a := m.get("/v2/grafana/x/manifests/v1"); a.status != http.StatusOK || a.result() != "miss" {
		t.Errorf("a pull: %d %s", a.status, a.body)
	}
}

// TestWhoMayUpdateOpensAName for those who then may create below it.
func TestWhoMayUpdateOpensAName(t *testing.T) {
	for _, where := range []string{"the mirror", "another site"} {
		t.Run(where, func(t *testing.T) {
			m := runMirrors(t, "")
			m.push("an admin", m.sites()[where], m.admin, "grafana/x", "done")
			for there, s := range m.sites() {
				m.push(there, s, m.ci, "grafana/y", "done")
				m.push(there, s, m.ci, "other/y", "403 DENIED")
			}
			if a := m.send(m.ci, http.MethodPut, "/v2/grafana/x/manifests/1", index("other")...); a.refusal() != "403 DENIED" {
				t.Errorf("a tag that is there: %d %s", a.status, a.body)
			}
		})
	}
}

// TestNamesOfPoliciesAreThisRegistrysOwn asks the upstream for none of them, and lets
// those who may create do so.
func TestNamesOfPoliciesAreThisRegistrysOwn(t *testing.T) {
	m := runMirrors(t, "private acme/**")
	for _, path := range []string{
		"/v2/blumeops/app/manifests/v1", "/v2/blumeops/app/tags/list", "/v2/docs/manifests/v1", "/v2/acme/app/manifests/v1", "/v2/blumeops/app/manifests/v1?ns=" + m.host,
	} {
		for who, header := range map[string]http.Header{"anonymous": nil, "ci": m.ci, "an admin": m.admin} {
			if a := m.send(header, http.MethodGet, path); a.status != http.StatusNotFound {
				t.Errorf("%s: %s: %d %s", who, path, a.status, a.body)
			}
		}
	}
	for where, s := range m.sites() {
		m.push(where, s, m.ci, "blumeops/"+strings.ReplaceAll(where, " ", "-"), "done")
		m.push(where, s, m.ci, "acme/"+strings.ReplaceAll(where, " ", "-"), "done")
	}
	m.push("a name of one component", m.site, m.ci, "docs", "405 UNSUPPORTED")
	if n := len(m.hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(m.hub.Requests()))
	}
	// By its full name the upstream's is still there.
	if a := m.get("/v2/docker.io/blumeops/app/manifests/v1"); a.status != http.StatusOK || a.result() != "miss" {
		t.Errorf("the upstream's: %d %s", a.status, a.body)
	}
}

// TestNamesThatTheCallerMayMakeAreNotAskedFor of those who look for what they push next.
func TestNamesThatTheCallerMayMakeAreNotAskedFor(t *testing.T) {
	m := runMirrors(t, "")
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		if a := m.send(m.admin, method, "/v2/grafana/x/manifests/v1"); a.status != http.StatusNotFound {
			t.Errorf("an admin, %s: %d %s", method, a.status, a.body)
		}
	}
	if n := len(m.hub.Requests()); n != 0 {
		t.Errorf("the upstream was asked:\n%s", paths(m.hub.Requests()))
	}
	for who, header := range map[string]http.Header{"anonymous": nil, "ci": m.ci} {
		if a := m.send(header, http.MethodGet, "/v2/grafana/x/manifests/v1"); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", who, a.status, a.body)
		}
	}
	if a := m.send(m.admin, http.MethodGet, "/v2/library/alpine/manifests/v1"); a.status != http.StatusOK {
		t.Errorf("a name that takes no push: %d %s", a.status, a.body)
	}
}
