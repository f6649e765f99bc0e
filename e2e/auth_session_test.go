//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// TestSigningOut ends the session here and at the identity provider, but no key.
func TestSigningOut(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	g.login(b, "zot-ci")
	key := g.newKey(b, "ci")
	cookie := "registry_session=" + b.cookie("registry_session")
	expect(t, http.StatusOK)(g.anonymous(http.MethodGet, "/user/apikey", http.Header{"Cookie": {cookie}}, nil))

	b.press("Sign out")
	if !strings.HasPrefix(b.location(), g.idp.url("/application/o/zot/end-session/")) {
		t.Fatalf("signing out leads to %s, and not to the identity provider", b.location())
	}
	b.shoot("sign-out")
	b.press("Yes, sign me out")
	b.at(g.url("/login?signed_out=1"), "You are signed out.")
	b.shoot("signed-out")
	if left := b.cookie("registry_session"); left != "" {
		t.Error("the browser still has the session's cookie")
	}
	g.wantSignedOutBy(cookie) // who kept it
	b.open(g.url("/user/apikey"))
	b.at(g.url("/login?return=%2Fuser%2Fapikey"), "SIGN IN WITH OIDC")
	// The provider knows nobody in this browser any more: it asks who it is.
	b.press("SIGN IN WITH OIDC")
	b.do(chromedp.WaitVisible(chromedp.CSS(`[name="password"]`)))

	expect(t, http.StatusCreated)(pushBlob(g.as(key), "blumeops/x", "single POST", []byte("blob")))
	g.eventuallyRefreshed(2)
	expect(t, http.StatusCreated)(pushBlob(g.as(key), "blumeops/x", "single POST", []byte("more")))
}

// TestASessionIsNotOneFromBefore signing in: whoever planted a cookie in a browser does
// not get to be the one who signs in there.
func TestASessionIsNotOneFromBefore(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	const planted = "planted-by-somebody-else"
	b.plant(g.url("/"), "registry_session", planted)
	b.open(g.url("/"))
	b.at(g.url("/"), "SIGN IN WITH OIDC")
	g.login(b, "zot-ci")
	first := b.cookie("registry_session")
	if first == planted {
		t.Fatal("the session has the secret that was planted")
	}
	g.wantSignedOutBy("registry_session=" + planted)

	// Signing in again, as somebody else, ends the session of before.
	key := g.madeKey("ci", "artifact-workloads")
	b.do(chromedp.Evaluate[chromedp.Void](`document.body.innerHTML = '<form method="post" action="/auth/session"><input name="key"><button>Go</button></form>'`))
	b.fill("key", key)
	b.press("Go")
	b.at(g.url("/user/apikey"), "You signed in with an API key, which makes no other keys.")
	second := b.cookie("registry_session")
	g.keep("session cookie", second)
	if second == first {
		t.Error("two sessions have the same secret")
	}
	g.wantSignedOutBy("registry_session=" + first)
}

// TestSigningInIsForTheBrowserThatBegan it, once.
func TestSigningInIsForTheBrowserThatBegan(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	// What comes back from the provider is seen before the registry is.
	callbacks := b.requests(g.url(callbackPath))
	g.login(b, "zot-ci")
	callback := <-callbacks

	b.open(callback)
	b.at(callback, "This sign-in was not begun in this browser")
	other := b.anew()
	if status := other.open(callback); status != http.StatusBadRequest {
		t.Errorf("another browser is answered %d", status)
	}
	other.at(callback, "This sign-in was not begun in this browser")
	other.shoot("another-browser")
	if cookie := other.cookie("registry_session"); cookie != "" {
		t.Error("another browser has a session")
	}
	// The one that did still has its own.
	b.open(g.url("/user/apikey"))
	b.at(g.url("/user/apikey"), "zot-ci")
}

// TestSigningInLeadsOnOnlyHere whatever the link to it says.
func TestSigningInLeadsOnOnlyHere(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	for _, elsewhere := range []string{"https://example.com/", "//example.com/", `/\example.com/`, "/\t/example.com"} {
		tab := b.anew()
		tab.open(g.url("/login?return=" + url.QueryEscape(elsewhere)))
		if status := tab.signIn("zot-ci"); status != http.StatusOK && status != http.StatusNotFound {
			t.Errorf("after signing in with return %q the page has status %d", elsewhere, status)
		}
		if at := tab.location(); !strings.HasPrefix(at, g.url("/")) {
			t.Errorf("after signing in with return %q the browser is at %s", elsewhere, at)
		}
		g.keep("session cookie", tab.cookie("registry_session"))
	}
}

// TestOtherSitesCannotUseASession by what they make a browser send, be they of another
// host, with whose requests the cookie does not come, or only of another port.
func TestOtherSitesCannotUseASession(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	g.login(b, "alice")
	session := b.cookie("registry_session")
	manifest := mustPush(t, g.as(g.madeKey("alice", "admins")), "blumeops/x", "v1", []byte("blob"))
	key := g.madeKey("mallory", "artifact-workloads")
	for _, tt := range []struct{ path, fields string }{
		{"/user/apikey", `<input name="do" value="create"><input name="form" value="x"><input name="label" value="stolen">`},
		{"/auth/apikey", `<input name='{"label":"stolen","scopes":["' value='"]}'>`},
		{"/auth/session", `<input name="key" value="` + key + `">`},
		{"/auth/logout", ""},
		{"/v2/blumeops/x/blobs/uploads/", ""},
	} {
		enctype := "application/x-www-form-urlencoded"
		if tt.path == "/auth/apikey" {
			enctype = "text/plain"
		}
		form := fmt.Sprintf(`<form method="post" action="%s" enctype="%s">%s<button>Go</button></form>`, g.url(tt.path), enctype, tt.fields)
		for site, cookieComes := range map[string]bool{"http://localhost:": false, "http://127.0.0.1:": true} {
			b.open(site + g.idp.port + "/")
			b.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.body.innerHTML = %q", form)))
			if status := b.press("Go"); status != http.StatusForbidden && cookieComes {
				t.Errorf("another site's post to %s is answered %d", tt.path, status)
			}
		}
	}
	b.open(g.url("/user/apikey"))
	b.at(g.url("/user/apikey"), "You have no API key that works.")
	if b.cookie("registry_session") != session {
		t.Error("the browser has another session")
	}
	mustRead(t, g.anonymous, "/v2/blumeops/x/manifests/v1", manifest)
}

// TestAKeySignsInABrowser which then can rotate the key, and make none.
func TestAKeySignsInABrowser(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	key := g.madeKey("ci", "artifact-workloads")
	b.open(g.url("/"))
	b.fill("key", key[:len(key)-1]+"!")
	if status := b.press("Sign in"); status != http.StatusUnauthorized {
		t.Errorf("a wrong key is answered %d", status)
	}
	b.at(g.url("/auth/session"), "You are not signed in: the API key is not whole")
	b.fill("key", key)
	b.press("Sign in")
	b.at(g.url("/user/apikey"), "You signed in with an API key, which makes no other keys.")
	b.shoot("signed-in-with-key")
	g.keep("session cookie", b.cookie("registry_session"))

	b.press("Rotate")
	successor := b.value("new-key")
	g.keep("API key", successor)
	b.shoot("rotated")
	expect(t, http.StatusCreated)(pushBlob(g.as(successor), "blumeops/x", "single POST", []byte("blob")))
	eventually(t, "the session has ended with its key", func() error {
		if b.open(g.url("/user/apikey")); strings.HasPrefix(b.location(), g.url("/user/apikey")) {
			return fmt.Errorf("the browser is at %s", b.location())
		}
		return nil
	})
}

// wantSignedOutBy fails the test if a cookie is of somebody who is signed in.
func (g *guarded) wantSignedOutBy(cookie string) {
	g.t.Helper()
	a := expect(g.t, http.StatusSeeOther)(g.anonymous(http.MethodGet, "/user/apikey", http.Header{"Cookie": {cookie}}, nil))
	if to := a.header.Get("Location"); to != "/login?return=%2Fuser%2Fapikey" {
		g.t.Errorf("with the cookie the page of keys leads to %s", to)
	}
}

// plant gives the browser a cookie for a URL.
func (b *browser) plant(url, name, value string) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, network.SetCookie, network.SetCookieParams{Name: name, Value: value, URL: url, Path: "/"})
		return err
	}))
}

// requests returns the URLs that the tab asks for from now on and begin so.
func (b *browser) requests(begin string) <-chan string {
	b.t.Helper()
	urls := make(chan string, 100)
	err := chromedp.Listen(b.ctx, func(event any) {
		if request, ok := event.(*network.EventRequestWillBeSent); ok && strings.HasPrefix(request.Request.URL, begin) {
			select {
			case urls <- request.Request.URL:
			default: // nobody reads so many
			}
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return urls
}
