package web_test

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/eblume/caddy-registry/web"
)

// onEach runs a test on each state of each page.
func onEach(t *testing.T, test func(*testing.T, document)) {
	t.Helper()
	for name, page := range pages() {
		t.Run(name, func(t *testing.T) { test(t, show(t, page)) })
	}
}

func TestEveryPageIsHeldToItself(t *testing.T) {
	for name, page := range pages() {
		resp := ask(t, page, http.MethodGet, "/")
		for header, want := range map[string]string{
			"Content-Type":            "text/html; charset=utf-8",
			"Cache-Control":           "no-store",
			"X-Content-Type-Options":  "nosniff",
			"X-Frame-Options":         "DENY",
			"Referrer-Policy":         "strict-origin",
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		} {
			if got := resp.Header.Get(header); got != want {
				t.Errorf("%s: %s: %s", name, header, got)
			}
		}
	}
}

func TestTheStatusIsWhatTheCallerSays(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusBadRequest, http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		for name, page := range map[string]answer{
			"login": func(w http.ResponseWriter, r *http.Request) error { return web.Login(w, r, status, loginPage()) },
			"keys":  func(w http.ResponseWriter, r *http.Request) error { return web.Keys(w, r, status, keysPage()) },
			"failure": func(w http.ResponseWriter, r *http.Request) error {
				return web.Failure(w, r, status, web.FailurePage{})
			},
		} {
			if got := ask(t, page, http.MethodGet, "/").StatusCode; got != status {
				t.Errorf("%s: %d instead of %d", name, got, status)
			}
		}
	}
}

func TestHeadAnswersAsGetWithoutTheBody(t *testing.T) {
	for name, page := range pages() {
		get, head := ask(t, page, http.MethodGet, "/"), ask(t, page, http.MethodHead, "/")
		content, err := io.ReadAll(get.Body)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(head.Body); len(body) > 0 {
			t.Errorf("%s: HEAD has a body", name)
		}
		if head.StatusCode != get.StatusCode || !maps.EqualFunc(head.Header, get.Header, slices.Equal[[]string]) {
			t.Errorf("%s: HEAD is %d %v, GET %d %v", name, head.StatusCode, head.Header, get.StatusCode, get.Header)
		}
		if get.Header.Get("Content-Length") != strconv.Itoa(len(content)) {
			t.Errorf("%s: %d bytes are said to be %s", name, len(content), get.Header.Get("Content-Length"))
		}
	}
}

func TestFormsMayEndOnlyAtTheOriginsGiven(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"https://id.example.com/logout?x=1;y", " https://id.example.com"},
		{"https://id.example.com:8443", " https://id.example.com:8443"},
		{"http://[::1]:9000/", " http://[::1]:9000"},
		{"HTTPS://someone:secret@id.example.com/", " https://id.example.com"},
		{"", ""},
		{"/auth/logout", ""},
		{"//id.example.com/", ""},
		{"javascript:alert(1)", ""},
		{"data:text/html,x", ""},
		{"https:///path", ""},
		{"https://*", ""},
		{"https://*.example.com/", ""},
		{"https://a.example;script-src 'unsafe-inline'", ""},
		{"https://a.example;script-src", ""},
		{"https://a.example,b.example", ""},
		{"https://a.example%20b.example", ""},
		{"https://a.example\tb.example", ""},
		{"https://'unsafe-inline'", ""},
		{"https://ä.example", ""},
	} {
		p := keysPage()
		p.FormOrigins = []string{test.url, test.url}
		policy := ask(t, keys(p), http.MethodGet, "/").Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "; form-action 'self'"+test.want+"; base-uri") {
			t.Errorf("%s: %s", test.url, policy)
		}
	}
}

func TestTheNavigationMarksThePage(t *testing.T) {
	d := show(t, keys(keysPage()))
	for link := range d.all("a") {
		if marked := attr(link, "aria-current") == "page"; marked != (text(link) == "API keys") {
			t.Errorf("%s: %v", text(link), marked)
		}
	}
}

func TestSigningInIsOfferedWhereNobodyIs(t *testing.T) {
	show(t, failure(web.FailurePage{Layout: signedOut()})).wants(t, "Sign in")
	layout := signedIn()
	layout.SignIn = "/login"
	show(t, failure(web.FailurePage{Layout: layout})).lacks(t, "Sign in")
	// The page for it need not lead to itself.
	for link := range show(t, login(loginPage(authentik))).all("a") {
		if attr(link, "href") == "/login" {
			t.Error("the login page links to itself")
		}
	}
}

func TestAFailureTellsWhatHappenedAndWhatToDo(t *testing.T) {
	d := show(t, failure(web.FailurePage{
		Layout: signedOut(), Title: "Signing in failed", Message: "the provider is away", Advice: "Wait for it.",
		Links: []web.Link{{Label: "Try again", URL: "/login?return=%2F"}},
	}))
	d.wants(t, "Signing in failed", "The provider is away.", "Wait for it.", "Status 503")
	var links []string
	for link := range d.all("a") {
		links = append(links, attr(link, "href"))
	}
	if !slices.Contains(links, "/login?return=%2F") {
		t.Errorf("links: %v", links)
	}
	show(t, failure(web.FailurePage{Message: "no"})).wants(t, "Service Unavailable")
}

func TestMessagesAreSentences(t *testing.T) {
	for message, want := range map[string]string{
		"it is gone":   "It is gone.",
		"It is gone.":  "It is gone.",
		"is it gone?":  "Is it gone?",
		"öffne es":     "Öffne es.",
		"\"x\" is bad": "\"x\" is bad.",
		"x":            "X.",
	} {
		p := keysPage()
		p.Error, p.Form.Error, p.Note = message, message, message
		l := loginPage(web.Provider{Name: "x", Problem: message})
		l.Error = message
		for _, page := range []answer{keys(p), login(l), failure(web.FailurePage{Message: message})} {
			d := show(t, page)
			for n := range d.all("p") {
				role := attr(n.Parent, "role")
				if said := text(n); (role == "alert" || role == "status" || attr(n, "class") == "trouble") && said != want {
					t.Errorf("%q is %q", message, said)
				}
			}
			d.wants(t, want)
		}
	}
}

// TestPagesAreWellFormed reads the tags as they are written and as a browser understands
// them: it must neither add nor move nor leave out any.
func TestPagesAreWellFormed(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		var written, read []string
		var open []string
		for z := html.NewTokenizer(strings.NewReader(d.source)); z.Next() != html.ErrorToken; {
			token := z.Token()
			switch token.Type {
			case html.StartTagToken:
				written = append(written, strings.Join(open, ">")+">"+token.Data)
				if !slices.Contains([]string{"meta", "link", "input", "img"}, token.Data) {
					open = append(open, token.Data)
				}
			case html.EndTagToken:
				if len(open) == 0 || open[len(open)-1] != token.Data {
					t.Fatalf("</%s> closes %v", token.Data, open)
				}
				open = open[:len(open)-1]
			}
		}
		for n := range d.all("") {
			path := ">" + n.Data
			for a := range n.Ancestors() {
				if a.Type == html.ElementNode {
					path = ">" + a.Data + path
				}
			}
			read = append(read, strings.TrimPrefix(path, ">"))
		}
		written[0] = strings.TrimPrefix(written[0], ">")
		if len(open) > 0 || !slices.Equal(written, read) {
			t.Errorf("%v stay open; written:\n%s\nread:\n%s", open, strings.Join(written, "\n"), strings.Join(read, "\n"))
		}
	})
}
