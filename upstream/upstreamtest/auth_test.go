package upstreamtest_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestBasicAsksForPassword(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.AddImage("a", "1")
	upstream.RequireBasic("me", "secret")
	upstream.Fault(upstreamtest.Match{First: 1}, upstreamtest.Refuse(500))
	manifest := upstream.URL() + "/v2/a/manifests/1"
	if r := ask(t, "GET", manifest); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") != `Basic realm="upstream"` {
		t.Errorf("nobody: %s %v", r.Status, r.Header)
	}
	for password, status := range map[string]int{"wrong": 401, "secret": 500} { // the fault is for who may pull
		req := request(t, t.Context(), manifest)
		req.SetBasicAuth("me", password)
		if r := ask(t, "GET", manifest, "Authorization", req.Header.Get("Authorization")); r.StatusCode != status {
			t.Errorf("%s: %s", password, r.Status)
		}
	}
	if schemes := upstream.Requests()[0].Authorization() + upstream.Requests()[1].Authorization(); schemes != "Basic" {
		t.Errorf("the log has %q", schemes)
	}
	upstream.AllowAll()
	if r := ask(t, "GET", manifest); r.StatusCode != 200 {
		t.Error(r.Status)
	}
}

func TestTokensAreForARepository(t *testing.T) {
	upstream := upstreamtest.Start(t)
	for _, name := range []string{"open", "other", "closed"} {
		upstream.AddImage(name, "1")
	}
	upstream.SetPrivate("closed")
	upstream.RequireBearer(upstreamtest.Tokens{Username: "me", Password: "secret"})
	status := func(name, token string) int {
		return ask(t, "GET", upstream.URL()+"/v2/"+name+"/manifests/1", "Authorization", "Bearer "+token).StatusCode
	}

	challenge := ask(t, "GET", upstream.URL()+"/v2/open/manifests/1").Header.Get("WWW-Authenticate")
	if want := `Bearer realm="` + upstream.URL() + `/token",service="upstream.test",scope="repository:open:pull"`; challenge != want {
		t.Errorf("challenge is %s, want %s", challenge, want)
	}
	anonymous := token(t, upstream, "", "", "open", "closed", "none")
	known := token(t, upstream, "me", "secret", "closed")
	for _, test := range []struct {
		name, token string
		want        int
	}{
		{"open", anonymous, 200},
		{"other", anonymous, 401}, // not in its scope
		{"closed", anonymous, 401},
		{"none", anonymous, 401}, // as Docker Hub hides what does not exist
		{"closed", known, 200},
		{"closed", "made-up", 401},
	} {
		if got := status(test.name, test.token); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	if token(t, upstream, "me", "wrong", "open") != "" {
		t.Error("a wrong password got a token")
	}
	upstream.ExpireTokens()
	if got := status("open", anonymous); got != 401 {
		t.Errorf("expired: %d", got)
	}
}

func TestTokenExpires(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.AddImage("a", "1")
	upstream.RequireBearer(upstreamtest.Tokens{Lifetime: time.Nanosecond})
	given := token(t, upstream, "", "", "a")
	if r := ask(t, "GET", upstream.URL()+"/v2/a/manifests/1", "Authorization", "Bearer "+given); r.StatusCode != 401 ||
		!strings.Contains(r.Header.Get("WWW-Authenticate"), "invalid_token") {
		t.Errorf("%s, %v", r.Status, r.Header)
	}
	upstream.RequireBearer(upstreamtest.Tokens{NoAnonymous: true})
	if token(t, upstream, "", "", "a") != "" {
		t.Error("nobody got a token")
	}
}

func TestTokenByForm(t *testing.T) {
	upstream := upstreamtest.Start(t)
	upstream.RequireBearer(upstreamtest.Tokens{Username: "me", Password: "secret"})
	for password, status := range map[string]int{"secret": 200, "wrong": 401} {
		form := url.Values{"grant_type": {"password"}, "username": {"me"}, "password": {password}, "service": {"upstream.test"}, "scope": {"repository:a:pull"}}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).PostForm(upstream.URL()+"/token", form)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %s", password, resp.Status)
		}
	}
}

// token returns a token for repositories, or nothing if it is refused.
func token(t *testing.T, upstream *upstreamtest.Registry, username, password string, repositories ...string) string {
	t.Helper()
	query := url.Values{"service": {"upstream.test"}}
	for _, name := range repositories {
		query.Add("scope", "repository:"+name+":pull")
	}
	var headers []string
	if username != "" {
		req := request(t, t.Context(), upstream.URL())
		req.SetBasicAuth(username, password)
		headers = []string{"Authorization", req.Header.Get("Authorization")}
	}
	r := ask(t, "GET", upstream.URL()+"/token?"+query.Encode(), headers...)
	if r.StatusCode != 200 {
		return ""
	}
	var told struct {
		Token     string
		ExpiresIn *int `json:"expires_in"`
	}
	if err := json.Unmarshal(r.body, &told); err != nil || told.ExpiresIn == nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return told.Token
}

func TestRateLimitCountsGetsOfManifests(t *testing.T) {
	upstream := upstreamtest.Start(t)
	image := upstream.AddImage("a", "1")
	upstream.SetRateLimit(100, 1, 6*time.Hour, time.Minute)
	manifest, blob := upstream.URL()+"/v2/a/manifests/1", upstream.URL()+"/v2/a/blobs/"+image.Config.Digest.String()
	for _, test := range []struct {
		method, url, remaining string
		status                 int
	}{
		{"HEAD", manifest, "1;w=21600", 200},
		{"GET", blob, "", 200},
		{"GET", manifest, "0;w=21600", 200},
		{"GET", manifest, "0;w=21600", 429},
		{"HEAD", manifest, "0;w=21600", 200},
	} {
		r := ask(t, test.method, test.url)
		if r.StatusCode != test.status || r.Header.Get("Ratelimit-Remaining") != test.remaining {
			t.Errorf("%s %s: %s, remaining %q", test.method, test.url, r.Status, r.Header.Get("Ratelimit-Remaining"))
		}
		if test.status == 429 && (r.Header.Get("Retry-After") != "60" || r.Header.Get("Ratelimit-Limit") != "100;w=21600") {
			t.Errorf("429 has %v", r.Header)
		}
	}
}
