package web_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/eblume/caddy-registry/web"
)

// form is a form as a browser sends it.
type form struct {
	method, action, button string
	fields                 url.Values
}

func formsOf(d document) []form {
	var forms []form
	for n := range d.all("form") {
		f := form{method: attr(n, "method"), action: attr(n, "action"), fields: url.Values{}}
		for field := range elements(n, "") {
			switch field.Data {
			case "input":
				f.fields.Add(attr(field, "name"), attr(field, "value"))
			case "textarea":
				f.fields.Add(attr(field, "name"), content(field))
			case "button":
				f.button = text(field)
			}
		}
		forms = append(forms, f)
	}
	return forms
}

// content returns the text of an element as it stands.
func content(n *html.Node) string {
	if n.FirstChild == nil {
		return ""
	}
	return n.FirstChild.Data
}

// formOf returns the form with a button.
func formOf(t *testing.T, d document, button string) form {
	t.Helper()
	for _, f := range formsOf(d) {
		if f.button == button {
			return f
		}
	}
	t.Fatalf("no form has the button %q", button)
	return form{}
}

func (f form) fill(name, value string) {
	if !f.fields.Has(name) {
		panic("no field is called " + name)
	}
	f.fields.Set(name, value)
}

func (f form) submit() *http.Request { return newPost(f.action, f.fields.Encode()) }

func newPost(target, body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func TestFormsPostOnlyToWhereTheyAreTold(t *testing.T) {
	onEach(t, func(t *testing.T, d document) {
		for _, f := range formsOf(d) {
			if f.method != "post" || !slices.Contains([]string{"/user/apikey", "/auth/session", "/auth/logout"}, f.action) {
				t.Errorf("%+v", f)
			}
		}
	})
}

func TestSigningOutIsAFormWithoutFields(t *testing.T) {
	for _, page := range []answer{keys(keysPage()), failure(web.FailurePage{Layout: signedIn()})} {
		if f := formOf(t, show(t, page), "Sign out"); f.action != "/auth/logout" || len(f.fields) > 0 {
			t.Errorf("%+v", f)
		}
	}
}

func TestWhatTheFormsSendIsRead(t *testing.T) {
	d := show(t, keys(keysPage(forgejo)))
	create := formOf(t, d, "Generate API key")
	create.fill("label", "ci")
	create.fill("expires", "2026-12-31")
	create.fill("scopes", "read:**\r\ncreate:a/**\r\n")
	for _, test := range []struct {
		form form
		want web.KeyPost
	}{
		{create, web.KeyPost{Do: web.CreateKey, Form: web.KeyForm{ID: "form-1", Label: "ci", Expires: "2026-12-31", Scopes: "read:**\r\ncreate:a/**\r\n"}}},
		{formOf(t, d, "Rotate the key forgejo 3f2b8c1e"), web.KeyPost{Do: web.RotateKey, Key: forgejo.ID, Form: web.KeyForm{ID: "form-1"}}},
		{formOf(t, d, "Revoke it: the key forgejo 3f2b8c1e"), web.KeyPost{Do: web.RevokeKey, Key: forgejo.ID, Form: web.KeyForm{ID: "form-1"}}},
	} {
		got, err := web.ReadKeyPost(nil, test.form.submit())
		if err != nil || got != test.want || test.form.action != "/user/apikey" {
			t.Errorf("%s: %+v, %v", test.form.button, got, err)
		}
	}
}

func TestNothingOfAFormIsReadFromTheURL(t *testing.T) {
	r := newPost("/user/apikey?do=revoke&key=x&form=f&label=l&expires=e&scopes=s", "")
	if got, err := web.ReadKeyPost(nil, r); err != nil || got != (web.KeyPost{}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAFormThatCannotBeReadDoesNothing(t *testing.T) {
	for _, body := range []string{"do=revoke&key=%zz", "do=create&label=" + strings.Repeat("x", 64<<10)} {
		if got, err := web.ReadKeyPost(nil, newPost("/user/apikey", body)); err == nil || got != (web.KeyPost{}) {
			t.Errorf("%.20q: %+v", body, got)
		}
	}
}

func TestARefusedFormIsShownAsItWasFilledIn(t *testing.T) {
	p := keysPage()
	p.Form = web.KeyForm{ID: "form-2", Label: ` "ci" <1>`, Expires: "2026-12-31", Scopes: "\n read:a\npush:<b>", Error: "no action is push"}
	d := show(t, keys(p))
	d.wants(t, "No action is push.")
	got, err := web.ReadKeyPost(nil, formOf(t, d, "Generate API key").submit())
	got.Form.Error = p.Form.Error
	if err != nil || got.Form != p.Form {
		t.Errorf("%+v, %v", got.Form, err)
	}
	label := d.byID("label")
	if _, ok := lookup(label, "autofocus"); !ok || !strings.Contains(attr(label, "aria-describedby"), "create-error") {
		t.Errorf("the error is not found from %v", label.Attr)
	}
}
