//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestSecretsAreNeitherKeptNorLogged, whoever sends them and in whichever way, right or
// wrong, with an access log and all that there is for debugging. The other tests where
// people sign in look for theirs, too.
func TestSecretsAreNeitherKeptNorLogged(t *testing.T) {
	g := startGuarded(t)
	b := startBrowser(t)
	callbacks := b.requests(g.url(callbackPath))
	g.login(b, "zot-ci")
	key := g.newKey(b, "ci")
	const password = "password-of-somewhere-else"
	g.keep("password", password)
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}

	for _, secret := range []string{key, key[:len(key)-1] + "-", password} {
		g.keep("password", secret)
		basic := g.authorized("Basic " + base64.StdEncoding.EncodeToString([]byte("zot-ci:"+secret)))
		fields := url.Values{
			"grant_type": {"password"}, "client_id": {"containerd-client"}, "service": {g.addr},
			"username": {"zot-ci"}, "password": {secret}, "scope": {"repository:blumeops/x:pull,push"},
		}.Encode()
		for _, request := range []func() (answer, error){
			func() (answer, error) { return basic(http.MethodGet, "/v2/", nil, nil) },
			func() (answer, error) { return g.as(secret)(http.MethodGet, "/v2/", nil, nil) },
			func() (answer, error) {
				return basic(http.MethodGet, "/auth/token?account=zot-ci&scope=repository:blumeops/x:pull,push", nil, nil)
			},
			func() (answer, error) { return g.anonymous(http.MethodPost, "/auth/token", form, []byte(fields)) },
			func() (answer, error) { return pushBlob(basic, "blumeops/x", "chunks", randomBytes(1000)) },
		} {
			a, err := request()
			if err != nil {
				t.Fatal(err)
			}
			if wrong := secret != key; (a.status == http.StatusUnauthorized) != wrong {
				t.Errorf("a secret that is wrong (%t) is answered %v", wrong, a)
			}
		}
	}
	token := g.token(key, "repository:blumeops/x:pull,push")
	mustPush(t, g.authorized("Bearer "+token), "blumeops/x", "v1", []byte("blob"))
	rotated := expect(t, http.StatusCreated)(g.as(key)(http.MethodPost, "/zot/auth/apikey/rotate", nil, nil))
	successor := decode[struct{ APIKey string }](t, rotated.body).APIKey
	g.keep("API key", successor)
	g.eventuallyRefreshed(2)

	// In browsers: a key, a password, and a sign-in whose code the registry does not use.
	other := b.anew()
	for _, secret := range []string{password, successor} {
		other.open(g.url("/login"))
		other.fill("key", secret)
		other.press("Sign in")
	}
	other.at(g.url("/user/apikey"), "You signed in with an API key")
	g.keep("session cookie", other.cookie("registry_session"))
	b.anew().open(<-callbacks)
	b.press("Sign out")
	b.press("Yes, sign me out")
	b.do(chromedp.WaitVisible(labelled("SIGN IN WITH OIDC")))

	if listed := g.home.run(caddyBinary, "registry", "apikey", "list", "--config", g.config); strings.Contains(listed, "crk_") {
		t.Errorf("the list of keys has them:\n%s", listed)
	}
	if issued := g.idp.issued(); len(issued) < 4 {
		t.Errorf("the identity provider issued %d codes and tokens", len(issued))
	}
}

// leaked are a whole API key, and a signed JWT, of anybody.
var leaked = regexp.MustCompile(`\bcrk_[0-9A-Za-z]{38}\b|\beyJ[0-9A-Za-z_-]+\.eyJ[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+`)

// wantNoSecrets fails the test if something that only clients may have is in a file of
// the registry's user, among which are its log, its storage and Caddy's, or in its
// command line.
func (g *guarded) wantNoSecrets() {
	for _, secret := range g.idp.issued() {
		g.secrets[secret] = "code or token of the identity provider"
	}
	search := func(place string, content []byte) {
		for secret, what := range g.secrets {
			if at := bytes.Index(content, []byte(secret)); at >= 0 {
				g.t.Errorf("%s has the %s %.12s…: …%q…", place, what, secret, content[max(0, at-200):min(len(content), at+20)])
			}
		}
		if found := leaked.Find(content); found != nil {
			g.t.Errorf("%s has the key or token %.16s…", place, found)
		}
	}
	err := filepath.WalkDir(g.home.dir, func(path string, entry fs.DirEntry, err error) error {
		var content []byte
		if err == nil && entry.Type().IsRegular() {
			content, err = os.ReadFile(path)
			search(strings.TrimPrefix(path, g.home.dir+"/"), content)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the registry has removed it
		}
		return err
	})
	if err != nil {
		g.t.Error(err)
	}
	search("the command line", g.commandLines())
}

// commandLines returns the command lines of all processes of the registry's user.
func (g *guarded) commandLines() []byte {
	var lines []byte
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		environment, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(environment, []byte("="+g.home.dir+"/")) {
			continue // of others, or it has ended
		}
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		lines = append(lines, line...)
	}
	if !bytes.Contains(lines, []byte(caddyBinary)) {
		g.t.Errorf("the registry is not among %q", lines)
	}
	return lines
}
