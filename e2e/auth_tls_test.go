//go:build e2e

package e2e

import (
	"net/http"
	"testing"
)

// TestSigningInOverTLS gives the browser cookies that no other host, and no page without
// TLS, can set.
func TestSigningInOverTLS(t *testing.T) {
	skopeo := tool(t, "skopeo")
	g := newGuardedOver(t, "https")
	g.idp.start()
	g.start("tls internal")
	b := startBrowser(t)
	const name = "__Host-registry_session"
	b.open(g.url("/"))
	b.at(g.url("/"), "SIGN IN WITH OIDC")
	if status := b.signIn("zot-ci"); status != http.StatusOK {
		t.Fatalf("signing in ended with status %d at %s:\n%s", status, b.location(), b.text())
	}
	b.at(g.url("/user/apikey"), "zot-ci")
	session := b.cookie(name)
	g.keep("session cookie", session)
	if b.cookie("registry_session") != "" {
		t.Error("there is a cookie that others can set, too")
	}
	g.wantSignedOutBy("registry_session=" + session) // as an unencrypted page may have set it

	key := g.newKey(b, "ci")
	h := newHome(t)
	h.allowUnsigned()
	pushed := fileImage(t)
	pushed.writeLayout(t, h.path("pushed"), "v1")
	h.run(skopeo, "copy", "--dest-tls-verify=false", "--dest-creds=zot-ci:"+key, "oci:"+h.path("pushed")+":v1", "docker://"+g.name("blumeops/x:v1"))
	h.run(skopeo, "copy", "--src-tls-verify=false", "docker://"+g.name("blumeops/x:v1"), "oci:"+h.path("pulled")+":v1")
	pushed.wantLayout(t, h.path("pulled"))
	a := expect(t, http.StatusUnauthorized)(g.anonymous(http.MethodGet, "/v2/", nil, nil))
	if want := `Bearer realm="` + g.url("/auth/token") + `",service="` + g.addr + `"`; a.header.Get("WWW-Authenticate") != want {
		t.Errorf("the challenge is %q, want %q", a.header.Get("WWW-Authenticate"), want)
	}

	b.press("Sign out")
	b.press("Yes, sign me out")
	b.at(g.url("/login?signed_out=1"), "You are signed out.")
	if b.cookie(name) != "" {
		t.Error("the browser still has the session's cookie")
	}
	g.wantSignedOutBy(name + "=" + session)
}
