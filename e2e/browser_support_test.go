//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// browser is a tab of a real browser, with cookies of its own.
type browser struct {
	t   *testing.T
	ctx context.Context
}

// startBrowser starts a browser that reaches nothing but this machine, and hosts. It stops
// with the test.
func startBrowser(t *testing.T, hosts ...string) *browser {
	t.Helper()
	rules := "MAP * ~NOTFOUND"
	for _, host := range append(hosts, "localhost", "127.0.0.1") {
		rules += ", EXCLUDE " + host
	}
	h := newHome(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(tool(t, "chromium")),
		chromedp.NoInheritEnv, chromedp.Env(h.env...),
		chromedp.UserDataDir(h.path("profile")),
		chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("host-resolver-rules", rules),
		chromedp.Flag("ignore-certificate-errors", true), // of Caddy's own authority
		chromedp.WindowSize(1000, 900),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, _ = chromedp.NewContext(ctx)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) }) // the allocator waits for it, too
	return newTab(t, ctx)
}

// anew returns a tab that has no cookies, as another person's browser.
func (b *browser) anew() *browser {
	b.t.Helper()
	ctx, stop := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	b.t.Cleanup(stop)
	return newTab(b.t, ctx)
}

// newTab opens the tab of a context. It lasts as long as the context of what is done
// there first, which so must have no deadline.
func newTab(t *testing.T, ctx context.Context) *browser {
	t.Helper()
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("the browser: %v", err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		page, err := chromedp.Run(ctx, chromedp.Evaluate[string]("location.href + ' says:\\n' + document.body.innerText"))
		t.Logf("the browser ended at %s (%v)", page, err)
	})
	return &browser{t, ctx}
}

// in returns the same tab for a part of the test.
func (b *browser) in(t *testing.T) *browser { return &browser{t, b.ctx} }

// do does things in the page.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatalf("the browser: %v", err)
	}
}

// ask returns what an action finds out about the page.
func ask[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	answer, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("the browser: %v", err)
	}
	return answer
}

// goes does things that lead to another page, and returns that page's status.
func (b *browser) goes(actions ...chromedp.Action[chromedp.Void]) int {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	response, err := chromedp.RunResponse(ctx, actions...)
	if err != nil || response == nil {
		b.t.Fatalf("the browser gets no answer: %v", err)
	}
	return int(response.Status)
}

// open goes to a URL.
func (b *browser) open(url string) int {
	b.t.Helper()
	return b.goes(chromedp.Navigate(url))
}

// press clicks the link or button whose text begins so, which leads to another page.
func (b *browser) press(text string) int {
	b.t.Helper()
	return b.goes(chromedp.Click(labelled(text)))
}

// labelled is the link or button that can be seen and whose text begins so.
func labelled(text string) chromedp.Search {
	return chromedp.Search(fmt.Sprintf(`//*[(self::a or self::button or self::summary) and starts-with(normalize-space(), %q)]`, text))
}

// fill types into the field with a name.
func (b *browser) fill(name, text string) {
	b.t.Helper()
	field := chromedp.CSS(fmt.Sprintf(`[name=%q]`, name))
	b.do(chromedp.WaitVisible(field), chromedp.SendKeys(field, text))
}

// paste puts what was copied into the field with a name, and returns it.
func (b *browser) paste(name string) string {
	b.t.Helper()
	field := chromedp.CSS(fmt.Sprintf(`[name=%q]`, name))
	b.do(chromedp.Focus(field), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		for _, kind := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
			if _, err := chromedp.Call(ctx, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: kind, Key: "v", Commands: []string{"paste"}}); err != nil {
				return err
			}
		}
		return nil
	}))
	return ask(b, chromedp.Value(field))
}

func (b *browser) location() string {
	b.t.Helper()
	return ask(b, chromedp.Location())
}

// text returns all that can be read on the page. It is asked for in one step: a node that is
// looked for first may be of the page before, which has just gone.
func (b *browser) text() string {
	b.t.Helper()
	return ask(b, chromedp.Evaluate[string]("document.body.innerText"))
}

// at fails the test unless the page is at a URL and says something.
func (b *browser) at(url, words string) {
	b.t.Helper()
	if got := b.location(); got != url {
		b.t.Fatalf("the browser is at %s, want %s", got, url)
	}
	if got := b.text(); !strings.Contains(got, words) {
		b.t.Fatalf("the page at %s does not say %q but\n%s", url, words, got)
	}
}

// outside returns what the page has loaded from other places than its own.
func (b *browser) outside() []string {
	b.t.Helper()
	return ask(b, chromedp.Evaluate[[]string](`performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith(location.origin + "/"))`))
}

// value returns what is in the field with an id.
func (b *browser) value(id string) string {
	b.t.Helper()
	return ask(b, chromedp.Value(chromedp.ID(id)))
}

// cookie returns the value of the page's cookie with a name, which its scripts must not
// see, or nothing.
func (b *browser) cookie(name string) string {
	b.t.Helper()
	found := ask(b, func(ctx context.Context, _ *chromedp.Target) (network.GetCookiesResult, error) {
		return chromedp.Call(ctx, network.GetCookies, network.GetCookiesParams{})
	})
	for _, cookie := range found.Cookies {
		if cookie.Name != name {
			continue
		}
		if !cookie.HTTPOnly || cookie.SameSite != network.CookieSameSiteLax || cookie.Path != "/" {
			b.t.Errorf("the cookie %s is %+v, want it HttpOnly, SameSite=Lax and for all paths", name, cookie)
		}
		return cookie.Value
	}
	return ""
}

// shoot keeps a picture of the page, for people, if the environment says where.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := os.Getenv("E2E_SCREENSHOTS")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), ask(b, chromedp.FullScreenshot(100)), 0o600); err != nil {
		b.t.Error(err)
	}
}

// signIn signs somebody in whom the identity provider does not know yet in this browser,
// from a registry's login page on, and returns the status of the page where that ends.
func (b *browser) signIn(user string) int {
	b.t.Helper()
	if status := b.press("SIGN IN WITH OIDC"); status != http.StatusOK {
		b.t.Fatalf("SIGN IN WITH OIDC leads to %s with status %d:\n%s", b.location(), status, b.text())
	}
	b.fill("login", user)
	b.fill("password", "any")
	b.press("Sign-in")
	return b.press("Continue") // consents
}
