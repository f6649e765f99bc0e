package web_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/web"
)

// providerLinks returns the texts and targets of the links for signing in.
func providerLinks(d document) (texts, urls []string) {
	for section := range d.all("section") {
		for link := range elements(section, "a") {
			texts, urls = append(texts, text(link)), append(urls, attr(link, "href"))
		}
	}
	return texts, urls
}

func TestTheButtonSaysWhatTheRunbookSays(t *testing.T) {
	d := show(t, login(loginPage(authentik)))
	texts, urls := providerLinks(d)
	if !slices.Equal(texts, []string{"SIGN IN WITH OIDC"}) || !slices.Equal(urls, []string{authentik.URL}) {
		t.Errorf("%q %q", texts, urls)
	}
	d.lacks(t, "authentik")
}

func TestOneOfSeveralProvidersIsNamed(t *testing.T) {
	d := show(t, login(loginPage(authentik, github, web.Provider{Name: "third", URL: "/x"})))
	texts, urls := providerLinks(d)
	if !slices.Equal(texts, []string{"SIGN IN WITH OIDC", "SIGN IN WITH GITHUB", "SIGN IN WITH THIRD"}) || !slices.Equal(urls, []string{authentik.URL, github.URL, "/x"}) {
		t.Errorf("%q %q", texts, urls)
	}
	for link := range d.all("a") {
		described := text(d.byID(attr(link, "aria-describedby")))
		switch text(link) {
		case "SIGN IN WITH OIDC":
			if described != "authentik" {
				t.Errorf("the first is described as %q", described)
			}
		case "SIGN IN WITH GITHUB":
			if described != "It cannot be reached now." {
				t.Errorf("the second is described as %q", described)
			}
		}
	}
}

func TestWithoutProvidersThereIsTheKeyAlone(t *testing.T) {
	d := show(t, login(loginPage()))
	if texts, _ := providerLinks(d); len(texts) > 0 {
		t.Errorf("links %q", texts)
	}
	d.lacks(t, "SIGN IN", " or ")
	d.wants(t, "API key")
}

func TestAProviderWithAProblemCanBeTried(t *testing.T) {
	broken := authentik
	broken.Problem = "it cannot be reached now"
	d := show(t, login(loginPage(broken)))
	if texts, urls := providerLinks(d); !slices.Equal(texts, []string{"SIGN IN WITH OIDC"}) || !slices.Equal(urls, []string{authentik.URL}) {
		t.Errorf("%q %q", texts, urls)
	}
	d.wants(t, "It cannot be reached now.")
}

func TestTheLoginPageTellsWhatCameOfIt(t *testing.T) {
	p := loginPage(authentik)
	p.SignedOut = true
	show(t, login(p)).wants(t, "You are signed out.")
	p.Error = "the key is wrong"
	d := show(t, login(p))
	d.wants(t, "The key is wrong.")
	d.lacks(t, "You are signed out.")
}

func TestAKeyIsNeitherShownNorRememberedWhereItIsTyped(t *testing.T) {
	input := show(t, login(loginPage())).byID("key")
	if attr(input, "type") != "password" || attr(input, "autocomplete") != "off" || attr(input, "value") != "" {
		t.Errorf("%v", input.Attr)
	}
}

func TestTheKeyGoesToTheRegistryWithThePathToGoOnAt(t *testing.T) {
	for _, back := range []string{"/user/apikey", "", `/a?b=c&d="e"`} {
		p := loginPage(authentik)
		p.Return = back
		forms := formsOf(show(t, login(p)))
		if len(forms) != 1 || forms[0].action != "/auth/session" || forms[0].method != "post" {
			t.Fatalf("%+v", forms)
		}
		forms[0].fill("key", secret)
		r := forms[0].submit()
		key, got, err := web.ReadLogin(nil, r)
		if err != nil || key != secret || got != back {
			t.Errorf("%q, %q, %v", key, got, err)
		}
	}
}

func TestAKeyIsNotReadFromTheURL(t *testing.T) {
	r := newPost("/auth/session?key="+secret+"&return=/x", "")
	if key, back, err := web.ReadLogin(nil, r); key != "" || back != "" || err != nil {
		t.Errorf("%q, %q, %v", key, back, err)
	}
}

func TestALoginThatIsTooLongIsRefused(t *testing.T) {
	r := newPost("/auth/session", "key="+strings.Repeat("x", 64<<10))
	if key, _, err := web.ReadLogin(nil, r); key != "" || err == nil {
		t.Errorf("%d bytes, %v", len(key), err)
	}
}
