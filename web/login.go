package web

import (
	"net/http"
	"strconv"
)

// LoginPage is where people sign in.
type LoginPage struct {
	Layout
	// Providers are where people may sign in, the usual one first.
	Providers []Provider
	// KeyAction is where the form for an API key posts; see [ReadLogin].
	KeyAction string
	// Return is the local path to go on at. It goes along with the API key; the
	// providers' URLs have it already.
	Return string
	// Error is why signing in did not work.
	Error string
	// SignedOut is set after signing out.
	SignedOut bool
}

// Provider is an identity provider.
type Provider struct {
	Name  string // in the configuration
	Label string // for people; default: the name
	URL   string // of this site, where signing in begins
	// Problem is why it cannot be used now, or empty. It can still be tried.
	Problem string
}

// providerView is a provider with what the page says of it.
type providerView struct {
	Provider
	ID    string // by which the explanation is found
	First bool
	// Named is set if people must be told which provider it is.
	Named bool
}

// Login answers with the page for signing in.
func Login(w http.ResponseWriter, r *http.Request, status int, p LoginPage) error {
	p.SignIn = "" // is this page
	var providers []providerView
	for i, provider := range p.Providers {
		provider.Label = orDefault(provider.Label, provider.Name)
		providers = append(providers, providerView{
			provider, "provider-" + strconv.Itoa(i+1), i == 0, i == 0 && len(p.Providers) > 1,
		})
	}
	return loginPage.answer(w, r, status, view{Layout: p.Layout, Title: "Sign in", Page: struct {
		LoginPage
		Providers []providerView
	}{p, providers}})
}

// ReadLogin reads what the form for an API key sends: the key, and the path to go on at,
// which anybody can have put there. Nothing is taken from the URL.
func ReadLogin(w http.ResponseWriter, r *http.Request) (key, back string, err error) {
	if err := readForm(w, r); err != nil {
		return "", "", err
	}
	return r.PostForm.Get("key"), r.PostForm.Get("return"), nil
}

// maxForm is the most that a form of these pages may send.
const maxForm = 64 << 10

func readForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	return r.ParseForm()
}
