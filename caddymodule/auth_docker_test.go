package caddymodule_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

var challengeParam = regexp.MustCompile(`([a-z]+)="([^"]*)"`)

// challenged returns the parameters of a challenge, as clients read them.
func challenged(t *testing.T, a answer) map[string]string {
	t.Helper()
	rest, ok := strings.CutPrefix(a.header.Get("WWW-Authenticate"), "Bearer ")
	if a.status != http.StatusUnauthorized || !ok {
		t.Fatalf("no challenge: %d %v %s", a.status, a.header, a.body)
	}
	params := make(map[string]string)
	for _, match := range challengeParam.FindAllStringSubmatch(rest, -1) {
		params[match[1]] = match[2]
	}
	return params
}

// tokenJSON is what the token service answers.
type tokenJSON struct {
	Token       string    `json:"token"`
	AccessToken string    `json:"access_token"`
	ExpiresIn   int       `json:"expires_in"`
	IssuedAt    time.Time `json:"issued_at"`
	Scope       string    `json:"scope"`
}

func readToken(t *testing.T, a answer) tokenJSON {
	t.Helper()
	var token tokenJSON
	if err := json.Unmarshal([]byte(a.body), &token); err != nil || a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("no token: %d %v %s", a.status, a.header, a.body)
	}
	return token
}

// TestDockersWayToPullWithoutAnAccount asks, is challenged, fetches a token and pulls.
func TestDockersWayToPullWithoutAnAccount(t *testing.T) {
	g := runGuarded(t, "policy ** {\nanonymous read\n}")
	g.open.putIndex("team/app", "v1", "1")
	for _, path := range []string{"/v2/", "/v2"} {
		ping := g.get(path)
		params := challenged(t, ping)
		if ping.refusal() != "401 UNAUTHORIZED" || ping.header.Get("Docker-Distribution-Api-Version") != "registry/2.0" || params["realm"] != g.url()+"/auth/token" || params["service"] != g.host || params["scope"] != "" {
			t.Errorf("%s: %v %v %s", path, params, ping.header, ping.body)
		}
	}
	query := url.Values{"service": {g.host}, "scope": {"repository:team/app:pull"}}
	token := readToken(t, g.get("/auth/token?"+query.Encode()))
	if token.Token == "" || token.AccessToken != token.Token || token.ExpiresIn != 300 || time.Since(token.IssuedAt).Abs() > time.Minute {
		t.Errorf("%+v", token)
	}
	for _, path := range []string{"/v2/", "/v2/team/app/manifests/v1"} {
		if a := g.send(bearer(token.Token), http.MethodGet, path); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := g.get("/v2/team/app/manifests/v1"); a.status != http.StatusOK || a.header.Get("WWW-Authenticate") != "" {
		t.Errorf("without a token: %d %s", a.status, a.body)
	}
}

// TestClientsWaysToPushWithAnAccount are those of Docker, which asks with GET, and of
// containerd, helm and oras, which send a form.
func TestClientsWaysToPushWithAnAccount(t *testing.T) {
	g := runGuarded(t, "policy ** {\nuser ci read create\n}")
	key := g.key("ci")
	start := "/v2/team/app/blobs/uploads/"
	params := challenged(t, g.send(nil, http.MethodPost, start))
	if params["scope"] != "repository:team/app:pull,push" {
		t.Errorf("scope %q", params["scope"])
	}
	query := url.Values{"account": {"ci"}, "client_id": {"docker"}, "offline_token": {"true"}, "service": {params["service"]}, "scope": {params["scope"]}}
	form := url.Values{"grant_type": {"password"}, "service": {params["service"]}, "client_id": {"containerd-client"}, "username": {"ci"}, "password": {key}, "scope": {params["scope"]}}
	got, posted := readToken(t, g.send(basic("ci", key), http.MethodGet, "/auth/token?"+query.Encode())), readToken(t, g.post(nil, "/auth/token", form))
	if posted.Scope != "repository:team/app:pull,push" {
		t.Errorf("the scope of the form's token is %q", posted.Scope)
	}
	for name, token := range map[string]string{"GET": got.Token, "POST": posted.AccessToken} {
		if a := g.send(bearer(token), http.MethodPost, start); a.status != http.StatusAccepted {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
		if err != nil {
			t.Fatal(err)
		}
		var says jwt.Claims
		if err := parsed.UnsafeClaimsWithoutVerification(&says); err != nil {
			t.Fatal(err)
		}
		if lifetime := says.Expiry.Time().Sub(says.IssuedAt.Time()); lifetime != 300*time.Second || says.Subject != "ci" || len(says.Audience) != 1 {
			t.Errorf("%s: it lasts %s, says %+v", name, lifetime, says)
		}
	}
	for name, a := range map[string]answer{
		"GET with a wrong key":     g.send(basic("ci", "crk_wrong"), http.MethodGet, "/auth/token?"+query.Encode()),
		"POST with a wrong key":    g.post(nil, "/auth/token", url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {"crk_wrong"}}),
		"GET with another's name":  g.send(basic("root", key), http.MethodGet, "/auth/token?"+query.Encode()),
		"POST with another's name": g.post(nil, "/auth/token", url.Values{"grant_type": {"password"}, "username": {"root"}, "password": {key}}),
		"GET with a token":         g.send(bearer(got.Token), http.MethodGet, "/auth/token?"+query.Encode()),
	} {
		if a.refusal() != "401 UNAUTHORIZED" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for grant, want := range map[string]string{"refresh_token": "unsupported_grant_type", "": "invalid_request"} {
		if a := g.post(nil, "/auth/token", url.Values{"grant_type": {grant}, "refresh_token": {"x"}}); a.status != http.StatusBadRequest || !strings.Contains(a.body, `"error":"`+want+`"`) {
			t.Errorf("grant_type %q: %d %s", grant, a.status, a.body)
		}
	}
}

// TestATokenHasWhatIsAllowedOfWhatIsAskedFor and judges names by what they stand for.
func TestATokenHasWhatIsAllowedOfWhatIsAskedFor(t *testing.T) {
	g := newGuarded(t)
	g.beside = "registry_cache {\nupstream docker.io {\nurl http://127.0.0.1:1\n}\n}"
	g.run("policy docker.io/** {\nanonymous read\n}\npolicy ** {\nuser ci read create\n}")
	key := g.key("ci")
	for scope, want := range map[string]string{
		"repository:team/app:push,pull":                     "repository:team/app:pull,push",
		"repository:team/app:pull,push,delete":              "repository:team/app:pull,push",
		"repository:team/app:*":                             "repository:team/app:pull,push",
		"repository:team/app:delete":                        "",
		"repository:docker.io/nginx:pull":                   "repository:docker.io/nginx:pull",
		"repository:library/nginx:pull,push":                "repository:library/nginx:pull,push",
		"registry:catalog:*":                                "registry:catalog:pull",
		"repository:a:pull repository:b:pull":               "repository:a:pull repository:b:pull",
		"repository:localhost:5000/a:pull":                  "repository:localhost:5000/a:pull",
		"repository(plugin):team/app:pull":                  "repository:team/app:pull",
		"nonsense":                                          "",
		"repository:team/app":                               "",
		strings.Repeat("repository:team/app:pull ", 3):      strings.TrimSpace(strings.Repeat("repository:team/app:pull ", 3)),
		"admin:everything:pull repository:team/app:read":    "",
		"repository:team/app:pull,,pull repository::delete": "repository:team/app:pull",
	} {
		token := readToken(t, g.post(nil, "/auth/token", url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {key}, "scope": {scope}}))
		if token.Scope != want {
			t.Errorf("%q: %q, want %q", scope, token.Scope, want)
		}
	}
	anonymous := readToken(t, g.post(nil, "/auth/token", url.Values{"grant_type": {"password"}, "scope": {"repository:team/app:push repository:docker.io/nginx:pull"}}))
	if anonymous.Scope != "repository:docker.io/nginx:pull" {
		t.Errorf("anonymous: %q", anonymous.Scope)
	}
}

// TestASessionMakesNoToken since its cookie comes along with whatever a page sends.
func TestASessionMakesNoToken(t *testing.T) {
	g, _ := runWithProvider(t)
	token := g.token(g.signIn("idp"), "repository:team/app:pull")
	if a := g.send(bearer(token), http.MethodGet, "/v2/team/app/tags/list"); a.refusal() != "401 UNAUTHORIZED" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestCachesKeepNothingThatNotEverybodyMayRead looks at what proxies are told.
func TestCachesKeepNothingThatNotEverybodyMayRead(t *testing.T) {
	g := runGuarded(t, "policy public/** {\nanonymous read\n}\npolicy ** {\nauthenticated read\n}")
	ci := bearer(g.key("ci"))
	for name, want := range map[string]string{"public/app": "public, max-age=31536000, immutable", "team/app": "private, max-age=31536000, immutable"} {
		path := "/v2/" + name + "/blobs/" + g.open.putBlob(name, "content").String()
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if a := g.send(ci, method, path); a.status != http.StatusOK || !slices.Equal(a.header["Cache-Control"], []string{want}) {
				t.Errorf("%s of %s: %d, Cache-Control %q, want %q", method, name, a.status, a.header["Cache-Control"], want)
			}
		}
		if a := g.send(with(ci, "Range", "bytes=1-"), http.MethodGet, path); a.status != http.StatusPartialContent || !slices.Equal(a.header["Cache-Control"], []string{want}) {
			t.Errorf("a range of %s: %d, Cache-Control %q", name, a.status, a.header["Cache-Control"])
		}
	}
	path := "/v2/team/app/blobs/" + g.open.putBlob("team/app", "content").String()
	if a := g.get(path); a.status != http.StatusUnauthorized || a.header["Cache-Control"] != nil || a.header["Etag"] != nil {
		t.Errorf("refused: %d %v", a.status, a.header)
	}
}

// TestThoseWhoGuessAreSlowedDown and a valid key of the same address is not.
func TestThoseWhoGuessAreSlowedDown(t *testing.T) {
	g := newGuarded(t)
	g.proxies = "127.0.0.1/32"
	g.run("policy ** {\nauthenticated read\n}")
	guess := with(bearer("zak_guess"), "X-Forwarded-For", "10.0.0.1")
	right := with(bearer(g.key("ci")), "X-Forwarded-For", "10.0.0.1")
	for range 20 {
		if a := g.send(guess, http.MethodGet, "/v2/"); a.refusal() != "401 UNAUTHORIZED" {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	// From now on answers wait, so several at once are too many.
	results := make(chan answer)
	const atOnce = 12
	for range atOnce {
		go func() {
			a, err := g.trySend(guess, http.MethodGet, "/v2/", nil)
			if err != nil {
				a = answer{body: err.Error()}
			}
			results <- a
		}()
	}
	var limited int
	for range atOnce {
		a := <-results
		if a.status == http.StatusTooManyRequests {
			limited++
			if a.refusal() != "429 TOOMANYREQUESTS" || a.header.Get("Retry-After") == "" {
				t.Errorf("%v %s", a.header, a.body)
			}
		} else if a.status != http.StatusUnauthorized {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if limited == 0 {
		t.Error("none of them was one too many")
	}
	if a := g.send(right, http.MethodGet, "/v2/"); a.status != http.StatusOK {
		t.Errorf("a key of the same address: %d %s", a.status, a.body)
	}
	if a := g.send(with(guess, "X-Forwarded-For", "10.0.0.2"), http.MethodGet, "/v2/"); a.refusal() != "401 UNAUTHORIZED" {
		t.Errorf("another address: %d %s", a.status, a.body)
	}
}
