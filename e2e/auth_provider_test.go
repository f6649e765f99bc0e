//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestKeysAndTokensEndWithTheirOwner at the identity provider, which is asked again about
// all who signed in and nobody else.
func TestKeysAndTokensEndWithTheirOwner(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	g.login(b, "zot-ci")
	key := g.newKey(b, "ci")
	token := g.token(key, "repository:blumeops/x:pull,push")
	manifest := mustPush(t, g.as(key), "blumeops/x", "v1", []byte("blob"))
	other := b.anew()
	g.login(other, "carol")
	others := g.newKey(other, "carol's")
	made := g.madeKey("zot-ci", "artifact-workloads")

	g.idp.change("zot-ci", map[string]any{"disabled": true})
	g.eventuallyEnded(key, "revoked")
	a := expect(t, http.StatusUnauthorized)(g.authorized("Bearer "+token)(http.MethodGet, "/v2/blumeops/x/manifests/v1", nil, nil))
	wantRefused(t, a, http.StatusUnauthorized, "UNAUTHORIZED", "revoked")
	expect(t, http.StatusUnauthorized)(pushBlob(g.authorized("Bearer "+token), "blumeops/x", "single POST", []byte("more")))
	expect(t, http.StatusUnauthorized)(g.as(key)(http.MethodGet, "/auth/token?scope=repository:blumeops/x:pull", nil, nil))
	expect(t, http.StatusUnauthorized)(g.as(key)(http.MethodPost, "/auth/apikey/rotate", nil, nil))
	b.open(g.url("/user/apikey"))
	b.at(g.url("/login?return=%2Fuser%2Fapikey"), "SIGN IN WITH OIDC")

	// Everybody else goes on.
	mustRead(t, g.anonymous, "/v2/blumeops/x/manifests/v1", manifest)
	mustRead(t, g.as(others), "/v2/blumeops/x/manifests/v1", manifest)
	mustRead(t, g.as(made), "/v2/blumeops/x/manifests/v1", manifest)
	other.open(g.url("/user/apikey"))
	other.at(g.url("/user/apikey"), "carol's")
}

// TestKeysFollowTheirOwnersGroups: who leaves a group may no longer do what it may, also
// with the keys of before.
func TestKeysFollowTheirOwnersGroups(t *testing.T) {
	g := startGuarded(t)
	key := g.keyOf("zot-ci")
	token := g.token(key, "repository:blumeops/x:pull,push")
	mustPush(t, g.as(key), "blumeops/x", "v1", []byte("blob"))

	g.idp.change("zot-ci", map[string]any{"groups": []string{}})
	eventually(t, "the key pushes no more", func() error {
		a, err := pushManifest(g.as(key), "blumeops/x", "v2", imageOf(nil, []byte("blob")))
		if err == nil && a.status != http.StatusForbidden {
			err = fmt.Errorf("answer %v", a)
		}
		return err
	})
	wantRefused(t, expect(t, http.StatusForbidden)(pushBlob(g.authorized("Bearer "+token), "blumeops/x", "single POST", []byte("more"))),
		http.StatusForbidden, "DENIED", "zot-ci may not create")

	g.idp.change("zot-ci", map[string]any{"groups": []string{"admins"}})
	eventually(t, "the key deletes", func() error {
		a, err := g.as(key)(http.MethodDelete, "/v2/blumeops/x/manifests/v1", nil, nil)
		if err == nil && a.status != http.StatusAccepted {
			err = fmt.Errorf("answer %v", a)
		}
		return err
	})
}

// TestAProviderThatIsDownEndsNothing but new sign-ins, which say so and work again when it
// is back.
func TestAProviderThatIsDownEndsNothing(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	g.login(b, "zot-ci")
	key := g.newKey(b, "ci")
	token := g.token(key, "repository:blumeops/x:pull,push")
	manifest := mustPush(t, g.as(key), "blumeops/x", "v1", []byte("blob"))

	g.idp.kill()
	const failed = "the identity provider does not answer about a person"
	eventually(t, "it was asked in vain several times", func() error {
		log, err := os.ReadFile(g.server.log)
		if n := strings.Count(string(log), failed); err == nil && n < 4 {
			err = fmt.Errorf("%q is in the log %d times", failed, n)
		}
		return err
	})
	mustRead(t, g.as(key), "/v2/blumeops/x/manifests/v1", manifest)
	mustRead(t, g.authorized("Bearer "+token), "/v2/blumeops/x/manifests/v1", manifest)
	mustPush(t, g.as(key), "blumeops/x", "v2", []byte("more"))
	b.open(g.url("/user/apikey"))
	b.at(g.url("/user/apikey"), "zot-ci")
	second := g.newKey(b, "made meanwhile")
	mustRead(t, g.as(second), "/v2/blumeops/x/manifests/v1", manifest)

	visitor := b.anew()
	visitor.seesProblem(g)
	visitor.shoot("provider-down")

	g.idp.start()
	g.login(visitor.anew(), "carol")
	mustRead(t, g.as(key), "/v2/blumeops/x/manifests/v1", manifest)
	// It is asked again, and what it says counts.
	g.idp.change("zot-ci", map[string]any{"disabled": true})
	g.eventuallyEnded(key, "revoked")
	g.eventuallyEnded(second, "revoked")
}

// TestAProviderThatIsDownAtTheStart keeps nobody from what needs no new sign-in.
func TestAProviderThatIsDownAtTheStart(t *testing.T) {
	g := newGuarded(t)
	g.start()
	key := g.madeKey("zot-ci", "artifact-workloads")
	manifest := mustPush(t, g.as(key), "blumeops/x", "v1", []byte("blob"))
	mustRead(t, g.anonymous, "/v2/blumeops/x/manifests/v1", manifest)

	b := startBrowser(t)
	b.seesProblem(g)
	b.shoot("provider-down-at-start")
	if status := b.press("SIGN IN WITH OIDC"); status != http.StatusServiceUnavailable {
		t.Errorf("signing in at a provider that is down answers %d", status)
	}
	b.at(g.url("/auth/login/authentik?return=%2F"), "The identity provider authentik cannot be reached now.")
	b.shoot("login-failed")

	g.idp.start()
	eventually(t, "the page says nothing of a problem", func() error {
		if b.open(g.url("/login")); strings.Contains(b.text(), "cannot be reached") {
			return fmt.Errorf("it says:\n%s", b.text())
		}
		return nil
	})
	g.login(b, "zot-ci")
	mustPush(t, g.as(g.newKey(b, "ci")), "blumeops/x", "v2", []byte("blob"))
}

// TestAKeyRenewsItself for as long as it is used, and the old one works on for a while, in
// which it is told when that ends.
func TestAKeyRenewsItself(t *testing.T) {
	g := startGuarded(t)
	old := g.keyOf("zot-ci")
	push := func(key, tag string) (answer, error) {
		return pushManifest(g.as(key), "blumeops/x", tag, imageOf(nil, []byte("blob")))
	}
	mustPush(t, g.as(old), "blumeops/x", "v1", []byte("blob"))

	asked := time.Now()
	output := g.home.run(tool(t, "curl"), "--fail", "--silent", "--show-error", "--request", "POST", "--header", "Authorization: Bearer "+old, g.url("/auth/apikey/rotate"))
	answered := time.Now()
	var successor struct {
		UUID, Label, APIKey string
		ExpirationDate      time.Time
		Scopes              []string
	}
	if err := json.Unmarshal([]byte(output), &successor); err != nil {
		t.Fatal(err)
	}
	g.keep("API key", successor.APIKey)
	if lasts := successor.ExpirationDate.Sub(asked).Round(time.Hour); successor.Label != "key of zot-ci" || lasts != 90*24*time.Hour || successor.APIKey == old {
		t.Errorf("the successor is %+v, and lasts %s", successor, lasts)
	}
	expect(t, http.StatusCreated)(push(successor.APIKey, "v2"))

	worked := 0
	for {
		began := time.Now()
		a, err := push(old, "v3")
		if err != nil {
			t.Fatal(err)
		}
		ended := time.Now()
		switch {
		case a.status == http.StatusCreated && began.Before(answered.Add(rotationGrace+time.Second)):
			worked++
			if warning := a.header.Get("Warning"); !strings.HasPrefix(warning, `299 - "API key `) {
				t.Errorf("who uses the old key is warned by %q", warning)
			}
		case a.status == http.StatusUnauthorized && ended.After(asked.Add(rotationGrace-time.Second)):
			if worked == 0 {
				t.Error("the old key never worked after it was rotated")
			}
			wantRefused(t, a, http.StatusUnauthorized, "UNAUTHORIZED", "expired")
			expect(t, http.StatusCreated)(push(successor.APIKey, "v4"))
			return
		default:
			t.Fatalf("%s after it was rotated the old key is answered %v", began.Sub(answered), a)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// eventuallyEnded waits until a key is refused, with a word that says why.
func (g *guarded) eventuallyEnded(key, why string) {
	g.t.Helper()
	began := time.Now()
	eventually(g.t, "the key has ended", func() error {
		a, err := g.as(key)(http.MethodGet, "/v2/", nil, nil)
		if err == nil && (a.status != http.StatusUnauthorized || !strings.Contains(string(a.body), why)) {
			err = fmt.Errorf("answer %v", a)
		}
		return err
	})
	g.t.Logf("the key ended after %s, with refresh %s", time.Since(began).Round(100*time.Millisecond), refreshEvery)
}

// eventuallyRefreshed waits until the provider was asked again about somebody some times more.
func (g *guarded) eventuallyRefreshed(times int) {
	g.t.Helper()
	// Each time it gives an access token, a refresh token and an ID token.
	enough := len(g.idp.issued()) + 3*times
	eventually(g.t, "the identity provider was asked again", func() error {
		if n := len(g.idp.issued()); n < enough {
			return fmt.Errorf("it has issued %d codes and tokens, and is to have issued %d", n, enough)
		}
		return nil
	})
}

// seesProblem waits until the page for signing in says that the provider is down.
func (b *browser) seesProblem(g *guarded) {
	b.t.Helper()
	eventually(b.t, "the page says that the provider is down", func() error {
		if status := b.open(g.url("/login")); status != http.StatusOK {
			b.t.Fatalf("/login answers %d", status)
		}
		if text := b.text(); !strings.Contains(text, "It cannot be reached now. Everything but new sign-ins works; try again in a while.") {
			return fmt.Errorf("it says:\n%s", text)
		}
		return nil
	})
}
