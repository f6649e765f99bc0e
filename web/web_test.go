package web_test

import (
	"bytes"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"golang.org/x/net/html"
	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/web"
)

const (
	day    = 24 * time.Hour
	secret = "crk_0123456789abcdefghijklmnopqrstuvwxyz"
)

var now = time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC)

// answer writes one of the pages.
type answer func(http.ResponseWriter, *http.Request) error

func login(p web.LoginPage) answer {
	return func(w http.ResponseWriter, r *http.Request) error { return web.Login(w, r, http.StatusOK, p) }
}

func keys(p web.KeysPage) answer {
	return func(w http.ResponseWriter, r *http.Request) error { return web.Keys(w, r, http.StatusOK, p) }
}

func failure(p web.FailurePage) answer {
	return func(w http.ResponseWriter, r *http.Request) error {
		return web.Failure(w, r, http.StatusServiceUnavailable, p)
	}
}

func signedOut() web.Layout { return web.Layout{Host: "registry.example", Home: "/", SignIn: "/login"} }

func signedIn() web.Layout {
	return web.Layout{
		Host: "registry.example", Home: "/", User: "ci", SignOut: "/auth/logout",
		Nav: []web.Link{{Label: "API keys", URL: "/user/apikey"}, {Label: "Other", URL: "/other"}},
	}
}

func loginPage(providers ...web.Provider) web.LoginPage {
	return web.LoginPage{Layout: signedOut(), Providers: providers, KeyAction: "/auth/session", Return: "/user/apikey"}
}

func keysPage(keys ...web.Key) web.KeysPage {
	return web.KeysPage{
		Layout: signedIn(), Keys: keys, MayCreate: true, Action: "/user/apikey", Form: web.KeyForm{ID: "form-1"},
		Lifetime: 90 * day, MaxLifetime: 365 * day, Grace: day, Now: now,
	}
}

var (
	authentik = web.Provider{Name: "authentik", URL: "/auth/login/authentik?return=%2Fuser%2Fapikey"}
	github    = web.Provider{Name: "github", Label: "GitHub", URL: "/auth/login/github", Problem: "it cannot be reached now"}
	forgejo   = web.Key{ID: "3f2b8c1e-7d44", Label: "forgejo", Scopes: []string{"read:**", "create:**"}, Created: now.Add(-40 * day), Expires: now.Add(50 * day), LastUsed: now.Add(-day)}
	laptop    = web.Key{ID: "9a0c1d2e-1111", Created: now.Add(-85 * day), Expires: now.Add(5 * day), Scopes: []string{"read:a", "read:b", "read:c", "read:d", "read:e", "read:f"}}
	rotated   = web.Key{ID: "5c77e0aa-aaaa", Label: "nixos", Created: now.Add(-89 * day), Expires: now.Add(22 * time.Hour), Successor: "0d1e2f3a-0b0c"}
	leaked    = web.Key{ID: "e1e1e1e1-2222", Label: "leaked", Created: now.Add(-30 * day), Expires: now.Add(60 * day), Revoked: now.Add(-2 * day)}
	old       = web.Key{ID: "77777777-8888", Label: "old", Created: now.Add(-190 * day), Expires: now.Add(-100 * day)}
	imported  = web.Key{ID: "short", Label: "imported", Created: now.Add(-190 * day)}
)

// pages are one of each state of each page.
func pages() map[string]answer {
	withError, withNote, withNew, byKey, shortLived := keysPage(forgejo), keysPage(forgejo), keysPage(forgejo), keysPage(rotated), keysPage()
	withError.Error, withError.Form.Error = "there is no such key", "the label is too long"
	withNote.Note = "it is done"
	withNew.New = &web.NewKey{Label: "forgejo", Secret: secret, Expires: now.Add(90 * day)}
	byKey.MayCreate = false
	byKey.New = &web.NewKey{Secret: secret, Expires: now.Add(90 * day), OldEnds: now.Add(day)}
	shortLived.Lifetime, shortLived.MaxLifetime, shortLived.Grace = time.Hour, time.Hour, 0
	failed, left := loginPage(authentik), loginPage(authentik)
	failed.Error = "the key is wrong"
	left.SignedOut = true
	return map[string]answer{
		"login":           login(loginPage(authentik)),
		"login, several":  login(loginPage(authentik, github, web.Provider{Name: "third", URL: "/x"})),
		"login, keys":     login(loginPage()),
		"login failed":    login(failed),
		"signed out":      login(left),
		"no keys":         keys(keysPage()),
		"keys":            keys(keysPage(forgejo, laptop, rotated, leaked, old, imported)),
		"keys, error":     keys(withError),
		"keys, note":      keys(withNote),
		"new key":         keys(withNew),
		"key by key":      keys(byKey),
		"short-lived":     keys(shortLived),
		"failure":         failure(web.FailurePage{Layout: signedOut(), Message: "storage is away", Advice: "Wait.", Links: []web.Link{{Label: "Home", URL: "/"}}}),
		"failure, signed": failure(web.FailurePage{Layout: signedIn(), Message: "storage is away"}),
	}
}

// ask returns the answer to a request.
func ask(t rapid.TB, page answer, method, path string) *http.Response {
	t.Helper()
	w := httptest.NewRecorder()
	if err := page(w, httptest.NewRequest(method, path, nil)); err != nil {
		t.Fatal(err)
	}
	return w.Result()
}

// show returns the page itself.
func show(t rapid.TB, page answer) document {
	t.Helper()
	body, err := io.ReadAll(ask(t, page, http.MethodGet, "/user/apikey").Body)
	if err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return document{string(body), root}
}

// document is a page as text and as browsers read it.
type document struct {
	source string
	root   *html.Node
}

// all returns the elements of a kind, or all if that is empty.
func (d document) all(tag string) iter.Seq[*html.Node] { return elements(d.root, tag) }

func elements(within *html.Node, tag string) iter.Seq[*html.Node] {
	return func(yield func(*html.Node) bool) {
		for n := range within.Descendants() {
			if n.Type == html.ElementNode && (tag == "" || n.Data == tag) && !yield(n) {
				return
			}
		}
	}
}

func (d document) byID(id string) *html.Node {
	for n := range d.all("") {
		if attr(n, "id") == id {
			return n
		}
	}
	return nil
}

// text returns what is read in an element, with single blanks, or "" if there is none.
func text(n *html.Node) string {
	if n == nil {
		return ""
	}
	var all strings.Builder
	for n := range n.Descendants() {
		if n.Type == html.TextNode {
			all.WriteString(n.Data)
		}
	}
	return strings.Join(strings.Fields(all.String()), " ")
}

func (d document) wants(t rapid.TB, wanted ...string) {
	t.Helper()
	for _, part := range wanted {
		if !strings.Contains(text(d.root), part) {
			t.Errorf("%q is not on the page", part)
		}
	}
}

func (d document) lacks(t rapid.TB, unwanted ...string) {
	t.Helper()
	for _, part := range unwanted {
		if strings.Contains(text(d.root), part) {
			t.Errorf("%q is on the page", part)
		}
	}
}

func attr(n *html.Node, key string) string {
	value, _ := lookup(n, key)
	return value
}

func lookup(n *html.Node, key string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val, true
		}
	}
	return "", false
}
