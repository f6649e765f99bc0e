//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/opencontainers/go-digest"
)

// TestRunbook is how a key for CI is made, and what CI and others then may: sign in as its
// account in a browser, generate a key, copy it, and push with skopeo.
func TestRunbook(t *testing.T) {
	skopeo, crane := tool(t, "skopeo"), tool(t, "crane")
	g := startGuarded(t)
	b := startBrowser(t)
	key := g.runbook(b)

	h := newHome(t)
	h.allowUnsigned()
	first, other := fileImage(t), fileImage(t)
	first.writeLayout(t, h.path("first"), "v1")
	other.writeLayout(t, h.path("other"), "v1")
	skopeoCopy := func(user, key, from, to string) []string {
		return []string{"copy", "--dest-tls-verify=false", "--dest-creds=" + user + ":" + key, "oci:" + h.path(from) + ":v1", "docker://" + g.name(to)}
	}

	t.Run("the key pushes a new tag", func(t *testing.T) {
		g, h := g.in(t), h.in(t)
		h.run(skopeo, skopeoCopy("zot-ci", key, "first", "blumeops/x:v1")...)
		first.wantSame(t, g.image("blumeops/x", "v1"))
	})
	t.Run("the same again succeeds and changes nothing", func(t *testing.T) {
		g, h := g.in(t), h.in(t)
		h.run(skopeo, skopeoCopy("zot-ci", key, "first", "blumeops/x:v1")...)
		first.wantSame(t, g.image("blumeops/x", "v1"))
	})
	t.Run("the key moves no tag", func(t *testing.T) {
		g, h := g.in(t), h.in(t)
		h.mustFail("zot-ci may not update", skopeo, skopeoCopy("zot-ci", key, "other", "blumeops/x:v1")...)
		first.wantSame(t, g.image("blumeops/x", "v1"))
	})
	t.Run("the key deletes nothing", func(t *testing.T) {
		g, h := g.in(t), h.in(t)
		g.mayNotDelete(key, first)
		h.run("/bin/sh", "-c", `printf %s "$1" | "$2" auth login "$3" --username zot-ci --password-stdin`, "sh", key, crane, g.addr)
		h.mustFail("zot-ci may not delete", crane, "delete", g.name("blumeops/x:v1"))
		h.mustFail("zot-ci may not delete", skopeo, "delete", "--tls-verify=false", "--creds=zot-ci:"+key, "docker://"+g.name("blumeops/x:v1"))
		first.wantSame(t, g.image("blumeops/x", "v1"))
	})
	t.Run("the key is its owner's only", func(t *testing.T) {
		g, h := g.in(t), h.in(t)
		h.mustFail("use its owner's name", skopeo, skopeoCopy("alice", key, "first", "blumeops/stolen:v1")...)
		h.mustFail("the API key is not whole", skopeo, skopeoCopy("zot-ci", key[:len(key)-1], "first", "blumeops/cut:v1")...)
		wantRefused(t, expect(t, http.StatusNotFound)(g.anonymous(http.MethodGet, "/v2/blumeops/stolen/tags/list", nil, nil)), http.StatusNotFound, "NAME_UNKNOWN")
	})
	t.Run("who is in no group reads only", func(t *testing.T) {
		g, h, b := g.in(t), h.in(t), b.in(t).anew()
		g.login(b, "carol")
		key := g.newKey(b, "carol's")
		h.mustFail("carol may not create", skopeo, skopeoCopy("carol", key, "first", "blumeops/carol:v1")...)
		h.run(skopeo, "copy", "--src-tls-verify=false", "--src-creds=carol:"+key, "docker://"+g.name("blumeops/x:v1"), "oci:"+h.path("read")+":v1")
		first.wantLayout(t, h.path("read"))
	})
	t.Run("an admin moves and deletes tags", func(t *testing.T) {
		g, h, b := g.in(t), h.in(t), b.in(t).anew()
		g.login(b, "alice")
		key := g.newKey(b, "alice's")
		h.run(skopeo, skopeoCopy("alice", key, "other", "blumeops/x:v1")...)
		other.wantSame(t, g.image("blumeops/x", "v1"))
		h.run(skopeo, "delete", "--tls-verify=false", "--creds=alice:"+key, "docker://"+g.name("blumeops/x:v1"))
		expect(t, http.StatusNotFound)(g.anonymous(http.MethodGet, "/v2/blumeops/x/manifests/v1", nil, nil))
	})
	t.Run("all of that is in the audit log", func(t *testing.T) {
		g.in(t).wantAudited(map[string]string{
			"login":        `"user":"zot-ci","address":"127.0.0.1","provider":"authentik"`,
			"login_failed": `use its owner's name`,
			"key_made":     `"user":"zot-ci"`,
			"push":         `"user":"zot-ci","address":"127.0.0.1","repository":"blumeops/x","tag":"v1","digest":"` + first.Digest.String(),
			"refused":      `"user":"zot-ci","address":"127.0.0.1","repository":"blumeops/x","action":"update"`,
			"overwrite":    `"user":"alice","address":"127.0.0.1","repository":"blumeops/x","tag":"v1","digest":"` + other.Digest.String(),
			"delete":       `"user":"alice","address":"127.0.0.1","repository":"blumeops/x"`,
		})
	})
	t.Run("who revokes the key ends it at once", func(t *testing.T) {
		g, b := g.in(t), b.in(t)
		token := g.token(key, "repository:blumeops/x:pull")
		b.open(g.url("/user/apikey"))
		b.do(chromedp.Click(labelled("Revoke")))
		b.press("Revoke it")
		b.at(g.url("/user/apikey"), "You have no API key that works.")
		b.shoot("revoked")
		for what, authorization := range map[string]string{"key": "Bearer " + key, "token": "Bearer " + token} {
			a := expect(t, http.StatusUnauthorized)(g.authorized(authorization)(http.MethodGet, "/v2/blumeops/x/tags/list", nil, nil))
			if !strings.Contains(string(a.body), "revoked") {
				t.Errorf("the %s of a revoked key is refused with %s", what, a.body)
			}
		}
	})
}

// wantAudited fails the test unless the audit log tells of events, each with some words.
func (g *guarded) wantAudited(events map[string]string) {
	g.t.Helper()
	log, err := os.ReadFile(g.server.log)
	if err != nil {
		g.t.Fatal(err)
	}
	for event, words := range events {
		found := false
		for line := range strings.Lines(string(log)) {
			found = found || strings.Contains(line, `"logger":"registry.audit","msg":"`+event+`"`) && strings.Contains(line, words)
		}
		if !found {
			g.t.Errorf("the audit log tells of no %s with %s", event, words)
		}
	}
}

// runbook makes a key as people do, and returns it.
func (g *guarded) runbook(b *browser) string {
	t := g.t
	t.Helper()
	if status := b.open(g.url("/")); status != http.StatusOK {
		t.Errorf("/ answers %d", status)
	}
	b.at(g.url("/"), "SIGN IN WITH OIDC")
	b.shoot("login")
	if status := b.press("SIGN IN WITH OIDC"); status != http.StatusOK || !strings.HasPrefix(b.location(), g.idp.url("/interaction/")) {
		t.Fatalf("SIGN IN WITH OIDC leads to %s with status %d", b.location(), status)
	}
	b.shoot("provider")
	b.fill("login", "zot-ci")
	b.fill("password", "any")
	b.press("Sign-in")
	b.shoot("consent")
	if status := b.press("Continue"); status != http.StatusOK {
		t.Fatalf("signing in ended with status %d at %s:\n%s", status, b.location(), b.text())
	}
	b.at(g.url("/user/apikey"), "zot-ci") // / leads there
	g.keep("session cookie", b.cookie(g.sessionCookie()))
	b.open(g.url("/user/apikey"))
	b.at(g.url("/user/apikey"), "You have no API key that works.")
	b.shoot("no-keys")

	key := g.newKey(b, "forgejo")
	b.at(g.url("/user/apikey"), "90 days left")
	if expiry := time.Now().UTC().AddDate(0, 0, 90).Format("2 Jan 2006"); !strings.Contains(b.text(), "It works until "+expiry) {
		t.Errorf("the page does not say that the key works until %s but\n%s", expiry, b.text())
	}
	if scripts := b.outside(); len(scripts) > 0 {
		t.Errorf("the page loads %s from elsewhere", scripts)
	}
	b.shoot("new-key")
	b.do(chromedp.Click(labelled("Copy")), chromedp.WaitVisible(labelled("Copied")))
	b.shoot("copied")
	if copied := b.paste("label"); copied != key {
		t.Errorf("%q was copied, and not the key %q", copied, key)
	}
	b.open(g.url("/user/apikey"))
	if html := ask(b, chromedp.OuterHTML(chromedp.CSS("html"))); strings.Contains(html, key) {
		t.Error("the page shows the key again")
	}
	b.at(g.url("/user/apikey"), "forgejo")
	return key
}

// mayNotDelete fails the test unless the API refuses every delete of an image's parts.
func (g *guarded) mayNotDelete(key string, i *image) {
	g.t.Helper()
	paths := []string{"/v2/blumeops/x/manifests/v1", "/v2/blumeops/x/manifests/" + i.Digest.String()}
	for _, blob := range blobsOf(g.t, i) {
		paths = append(paths, "/v2/blumeops/x/blobs/"+blob.String())
	}
	for _, path := range paths {
		a, err := g.as(key)(http.MethodDelete, path, nil, nil)
		if err != nil {
			g.t.Fatal(err)
		}
		wantRefused(g.t, a, http.StatusForbidden, "DENIED", "zot-ci may not delete", "policy ** { anonymous read; group artifact-workloads read create }")
	}
}

// TestAnonymousIsAskedWhoItIs only where it may not do something, by a challenge that
// clients understand.
func TestAnonymousIsAskedWhoItIs(t *testing.T) {
	g := startGuarded(t)
	admin := g.as(g.madeKey("alice", "admins"))
	blob := []byte("blob")
	manifest := mustPush(t, admin, "blumeops/x", "v1", blob)

	t.Run("not where it may read", func(t *testing.T) {
		g := g.in(t)
		mustRead(t, g.anonymous, "/v2/blumeops/x/manifests/v1", manifest)
		mustRead(t, g.anonymous, blobPath("blumeops/x", blob), blob)
		expect(t, http.StatusOK)(g.anonymous(http.MethodGet, "/v2/_catalog", nil, nil))
		expect(t, http.StatusOK)(g.anonymous(http.MethodGet, "/v2/blumeops/x/tags/list", nil, nil))
	})

	bearer := `Bearer realm="` + g.url("/auth/token") + `",service="` + g.addr + `"`
	manifestPath := "/v2/blumeops/x/manifests/v2"
	for _, tt := range []struct{ method, path, challenge string }{
		{http.MethodGet, "/v2/", bearer},
		{http.MethodGet, "/v2", bearer},
		{http.MethodPost, "/v2/blumeops/x/blobs/uploads/", bearer + `,scope="repository:blumeops/x:pull,push"`},
		{http.MethodPut, manifestPath, bearer + `,scope="repository:blumeops/x:pull,push"`},
		{http.MethodDelete, "/v2/blumeops/x/manifests/v1", bearer + `,scope="repository:blumeops/x:delete"`},
		{http.MethodDelete, blobPath("blumeops/x", blob), bearer + `,scope="repository:blumeops/x:delete"`},
		{http.MethodPost, "/v2/new/blobs/uploads/?digest=" + digest.FromBytes(blob).String(), bearer + `,scope="repository:new:pull,push"`},
	} {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			a := expect(t, http.StatusUnauthorized)(g.in(t).anonymous(tt.method, tt.path, nil, nil))
			wantRefused(t, a, http.StatusUnauthorized, "UNAUTHORIZED")
			if got := a.header.Values("WWW-Authenticate"); len(got) != 1 || got[0] != tt.challenge {
				t.Errorf("the challenges are %q, want %q", got, tt.challenge)
			}
		})
	}
	t.Run("nothing was pushed or deleted", func(t *testing.T) {
		mustRead(t, g.in(t).anonymous, "/v2/blumeops/x/manifests/v1", manifest)
		expect(t, http.StatusNotFound)(g.in(t).anonymous(http.MethodGet, manifestPath, nil, nil))
	})
}
