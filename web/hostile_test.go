package web_test

import (
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/web"
)

// everything returns pages in all of whose texts somebody else has a say.
func everything(s string) map[string]answer {
	in, out := signedIn(), signedOut()
	in.Host, in.User, out.Host = s, s, s
	in.Nav[1].Label = s
	key := web.Key{ID: s, Label: s, Scopes: []string{s}, Successor: s, Created: now, Expires: now.Add(day)}
	k := keysPage(key)
	k.Layout, k.Error, k.Note = in, s, s
	k.New = &web.NewKey{Label: s, Secret: s, Expires: now}
	k.Form = web.KeyForm{ID: s, Label: s, Expires: s, Scopes: s, Error: s}
	l := loginPage(web.Provider{Name: s, URL: "/x"}, web.Provider{Label: s, URL: "/y", Problem: s})
	l.Layout, l.Return, l.Error = out, s, s
	return map[string]answer{
		"keys":    keys(k),
		"login":   login(l),
		"failure": failure(web.FailurePage{Layout: in, Title: s, Message: s, Advice: s, Links: []web.Link{{Label: s, URL: "/"}}}),
	}
}

// outline returns the elements and attributes of a page without what people wrote.
func outline(d document) string {
	var lines strings.Builder
	for n := range d.all("") {
		lines.WriteString(n.Data)
		for _, a := range n.Attr {
			lines.WriteString(" " + a.Key)
			switch a.Key {
			case "value", "title", "href": // of which TestNoURLRuns has the hostile ones
			default:
				lines.WriteString("=" + a.Val)
			}
		}
		lines.WriteString("\n")
	}
	return lines.String()
}

func TestNoTextBecomesMarkup(t *testing.T) {
	plain := map[string]string{}
	for name, page := range everything("x") {
		plain[name] = outline(show(t, page))
	}
	check := func(t rapid.TB, text string) {
		for name, page := range everything(text) {
			if got := outline(show(t, page)); got != plain[name] {
				t.Errorf("%q changes the page %s:\n%s", text, name, got)
			}
		}
	}
	for _, text := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onfocus='alert(1)`, `" autofocus onfocus="alert(1)`,
		`</textarea><script>alert(1)</script>`, `</title><script>`, `<!--`, `-->`, `]]>`, `&lt;script&gt;`, "a\x00b", "\u202e", "`", `\`, `{{.Secret}}`,
	} {
		check(t, text)
	}
	rapid.Check(t, func(rt *rapid.T) {
		pieces := rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom([]string{"<", ">", `"`, "'", "&", "/", "=", " ", "script", "</", "<!--", "`", "\n"}), rapid.StringN(1, 3, -1)), 1, 12).Draw(rt, "pieces")
		check(rt, strings.Join(pieces, ""))
	})
}

func TestTextIsShownAsItIs(t *testing.T) {
	label := `<b>"Größe" & 'שלום'</b> {{.}} 构建`
	p := keysPage(web.Key{ID: "x", Label: label, Scopes: []string{label}, Expires: now.Add(day)})
	p.Host, p.User = label, label
	d := show(t, keys(p))
	tr, _ := row(t, d, "x")
	if !strings.HasPrefix(text(tr), label+" x") || cell(tr, "Scopes") != label {
		t.Errorf("%q", text(tr))
	}
	d.wants(t, "Signed in as "+label)
	for title := range d.all("title") {
		if text(title) != "API keys · "+label {
			t.Errorf("title %q", text(title))
		}
	}
	// What is written from right to left moves nothing around it.
	for n := range d.all("") {
		if n.FirstChild != nil && n.FirstChild.Data == label && n.Data != "bdi" && n.Data != "title" {
			t.Errorf("<%s> is not isolated", n.Data)
		}
	}
}

func TestNoURLRuns(t *testing.T) {
	for _, url := range []string{"javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\tscript:alert(1)", "data:text/html,<script>alert(1)</script>", "vbscript:x"} {
		layout := signedIn()
		layout.Home, layout.SignOut, layout.Nav = url, url, []web.Link{{Label: "x", URL: url}}
		out := web.Layout{Home: url, SignIn: url}
		l := loginPage(web.Provider{Name: "a", URL: url}, web.Provider{Name: "b", URL: url})
		l.Layout, l.KeyAction, l.Return = out, url, url
		k := keysPage(forgejo)
		k.Layout, k.Action = layout, url
		for name, page := range map[string]answer{
			"login": login(l), "keys": keys(k),
			"failure":             failure(web.FailurePage{Layout: layout, Links: []web.Link{{Label: "x", URL: url}}}),
			"failure, signed out": failure(web.FailurePage{Layout: out}),
		} {
			for n := range show(t, page).all("") {
				for _, key := range []string{"href", "action", "src"} {
					if target, ok := lookup(n, key); ok && !isLocal(target) {
						t.Errorf("%s, %q: <%s %s=%q>", name, url, n.Data, key, target)
					}
				}
			}
		}
	}
}

// TestWhereToGoOnIsOnlyAField: the page makes no link of it, whatever it is.
func TestWhereToGoOnIsOnlyAField(t *testing.T) {
	for _, back := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "javascript:alert(1)"} {
		p := loginPage(authentik)
		p.Return = back
		for n := range show(t, login(p)).all("") {
			for _, a := range n.Attr {
				if a.Val == back && (n.Data != "input" || a.Key != "value" || attr(n, "type") != "hidden") {
					t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
				}
			}
		}
	}
}

// TestHeadersHoldNoText: a host that breaks lines is no header of its own.
func TestHeadersHoldNoText(t *testing.T) {
	for name, page := range everything("x\r\nSet-Cookie: a=b") {
		for key, values := range ask(t, page, http.MethodGet, "/").Header {
			if strings.Contains(strings.Join(values, " "), "Cookie") {
				t.Errorf("%s: %s: %q", name, key, values)
			}
		}
	}
}
