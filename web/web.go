// Package web writes the registry's pages: templates, one stylesheet and one small script,
// all embedded. It gets plain data, knows nothing of how that came to be, and asks nobody.
// Every page works without the script, which only copies and masks.
package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Layout is what all pages share.
type Layout struct {
	// Host is how the registry is called, with the port that clients use.
	Host string
	// User is who is signed in, empty for nobody.
	User string
	// Home is where the registry's name leads, empty for nowhere.
	Home string
	// SignIn is the page for signing in, shown if nobody is, and SignOut where the form
	// that ends a session posts, without fields. Neither is shown if empty.
	SignIn, SignOut string
	// Nav are the registry's pages that the user may open.
	Nav []Link
	// FormOrigins are origins such as https://id.example.com that the answer to a form may
	// redirect to, beside the registry itself: signing out ends at the identity provider,
	// and browsers hold redirects to form-action too.
	FormOrigins []string
}

// Link leads to a page of the registry.
type Link struct{ Label, URL string }

// FailurePage tells somebody why there is no page.
type FailurePage struct {
	Layout
	Title   string // such as "Signing in failed"
	Message string // what happened
	Advice  string // what to do about it
	Links   []Link // where to go from here
}

// Failure answers with an error page. Like the other pages it returns an error for the
// log only: a clean 500 has been sent then.
func Failure(w http.ResponseWriter, r *http.Request, status int, p FailurePage) error {
	p.Title = orDefault(p.Title, http.StatusText(status))
	return failurePage.answer(w, r, status, view{Layout: p.Layout, Title: p.Title, Page: struct {
		FailurePage
		Status int
	}{p, status}})
}

//go:embed templates
var templates embed.FS

var (
	failurePage = parse("failure.html")
	loginPage   = parse("login.html")
	keysPage    = parse("keys.html")
)

// page is a template that is whole: the layout with one page's content.
type page struct{ *template.Template }

func parse(name string) page {
	t := template.New("layout.html").Funcs(template.FuncMap{
		"asset":    assetPath,
		"upper":    strings.ToUpper,
		"time":     timeIn,
		"stamp":    stampIn,
		"date":     dateIn,
		"span":     span,
		"sentence": sentence,
		"short":    shortID,
	})
	return page{template.Must(t.ParseFS(templates, "templates/layout.html", "templates/"+name))}
}

// view is what a template sees.
type view struct {
	Layout
	Title string
	Path  string // of the request, which is marked in the navigation
	Page  any
}

// answer renders all of a page before it sends any of it.
func (p page) answer(w http.ResponseWriter, r *http.Request, status int, v view) error {
	v.Path = r.URL.Path
	setPageHeader(w.Header(), v.FormOrigins)
	var body bytes.Buffer
	err := p.Execute(&body, v)
	if err != nil {
		err = fmt.Errorf("rendering the page %q: %w", v.Title, err)
		status = http.StatusInternalServerError
		body.Reset()
		body.WriteString("The registry failed to make this page; its log says why.\n")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// A client that left can be told nothing.
		_, _ = w.Write(body.Bytes())
	}
	return err
}

func setPageHeader(h http.Header, formOrigins []string) {
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", contentPolicy(formOrigins))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: forms would then come with "Origin: null", by which a browser that
	// sends no Sec-Fetch-Site (none does over plain HTTP) cannot be told from another site.
	// No more than the origin: a page that tells why signing in failed has a code in its URL,
	// and what it loads would be logged with that.
	h.Set("Referrer-Policy", "strict-origin")
}

// contentPolicy allows a page nothing but what it needs: its style, its script, its icon.
func contentPolicy(formOrigins []string) string {
	form := []string{"form-action 'self'"}
	for _, text := range formOrigins {
		if origin, ok := originOf(text); ok && !slices.Contains(form, origin) {
			form = append(form, origin)
		}
	}
	return strings.Join([]string{
		"default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self'",
		strings.Join(form, " "), "base-uri 'none'", "frame-ancestors 'none'",
	}, "; ")
}

// originOf returns the origin of a URL, unless something in it could be read as more of
// the policy that it is put into.
func originOf(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", false
	}
	strange := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-.:[]_", c))
	}
	return u.Scheme + "://" + u.Host, !strings.ContainsFunc(u.Host, strange)
}

func orDefault(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
