//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/opencontainers/go-digest"
)

// forge is a CI system that signs tokens for its jobs.
type forge struct {
	t        *testing.T
	url      string
	key      *ecdsa.PrivateKey
	audience string // of its tokens
}

func startForge(t *testing.T) *forge {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{t: t, key: key, audience: "registry.example.com"}
	keys := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "forge", Algorithm: "ES256", Use: "sig"}}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(encode(t, map[string]string{"issuer": f.url, "jwks_uri": f.url + "/keys"}))
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(encode(t, keys)) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// options are those by which a registry lets the forge's jobs of main push.
func (f *forge) options() string {
	return fmt.Sprintf(`workload_identity forgejo {
		issuer %s
		audience %s
		match repository eblume/*
		match ref refs/heads/main
		user ci:{claim.repository}
		groups artifact-workloads
	}`, f.url, f.audience)
}

// jobToken returns a token of a job that lasts so long.
func (f *forge) jobToken(lasts time.Duration) string {
	f.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: f.key, KeyID: "forge"}}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	now := time.Now()
	signed, err := signer.Sign(encode(f.t, map[string]any{
		"iss": f.url, "aud": f.audience, "sub": "repo:eblume/app:ref:refs/heads/main",
		"repository": "eblume/app", "ref": "refs/heads/main", "iat": now.Unix(), "exp": now.Add(lasts).Unix(),
	}))
	if err != nil {
		f.t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		f.t.Fatal(err)
	}
	return token
}

// jobLasts is long enough to begin something, on a slow machine too.
const jobLasts = 10 * time.Second

// startForJobs starts a registry that lets a forge's jobs push.
func startForJobs(t *testing.T) (*guarded, *forge) {
	t.Helper()
	f := startForge(t)
	g := newGuarded(t)
	g.options = f.options()
	g.start()
	return g, f
}

// TestWhatBeganWithATokenIsNotCutWhenItExpires: who asks is found out when a request
// begins. A client sends what comes after with another token.
func TestWhatBeganWithATokenIsNotCutWhenItExpires(t *testing.T) {
	g, f := startForJobs(t)
	admin := g.as(g.madeKey("alice", "admins"))
	blob := randomBytes(64 << 20) // much more than the connection's buffers take
	expect(t, http.StatusCreated)(pushBlob(admin, "blumeops/pulled", "single POST", blob))

	job := f.jobToken(jobLasts)
	g.keep("token of a job", job)
	token := g.token(job, "repository:blumeops/pulled:pull", "repository:blumeops/pushed:pull,push")
	bearer := g.authorized("Bearer " + token)
	upload := expect(t, http.StatusAccepted)(bearer(http.MethodPost, "/v2/blumeops/pushed/blobs/uploads/", nil, nil)).header.Get("Location")
	_, port, err := net.SplitHostPort(g.addr)
	if err != nil {
		t.Fatal(err)
	}
	half := len(blob) / 2
	push := sendPart(t, &process{port: port}, http.MethodPatch, upload, http.Header{"Authorization": {"Bearer " + token}}, blob[:half], len(blob))
	pull := sendPart(t, &process{port: port}, http.MethodGet, blobPath("blumeops/pulled", blob), http.Header{"Authorization": {"Bearer " + token}}, nil, 0)
	pulled, err := http.ReadResponse(bufio.NewReader(pull), nil)
	if err != nil || pulled.StatusCode != http.StatusOK {
		t.Fatalf("the pull does not begin: %v, %v", pulled, err)
	}

	eventually(t, "the token has expired", func() error {
		a, err := bearer(http.MethodGet, "/v2/blumeops/pulled/tags/list", nil, nil)
		if err == nil && a.status != http.StatusUnauthorized {
			err = fmt.Errorf("answer %v", a)
		}
		return err
	})
	body := readAll(t, pulled)
	if !bytes.Equal(body, blob) {
		t.Errorf("the pull ended with %d bytes, want %d others", len(body), len(blob))
	}
	if _, err := push.Write(blob[half:]); err != nil {
		t.Fatalf("the push was cut: %v", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(push), nil)
	if err != nil {
		t.Fatalf("the push was cut: %v", err)
	}
	expect(t, http.StatusAccepted)(readAnswer(response))

	finish := withQuery(upload, "digest="+digest.FromBytes(blob).String())
	refused := expect(t, http.StatusUnauthorized)(bearer(http.MethodPut, finish, nil, nil))
	wantRefused(t, refused, http.StatusUnauthorized, "UNAUTHORIZED", "the token has expired")
	if challenge := refused.header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, `Bearer realm="`+g.url("/auth/token")+`"`) || !strings.Contains(challenge, `error="invalid_token"`) {
		t.Errorf("the challenge is %q", challenge)
	}
	another := f.jobToken(time.Minute)
	g.keep("token of a job", another)
	token = g.token(another, "repository:blumeops/pushed:pull,push")
	expect(t, http.StatusCreated)(g.authorized("Bearer "+token)(http.MethodPut, finish, nil, nil))
	mustRead(t, g.anonymous, blobPath("blumeops/pushed", blob), blob)
}

// TestAJobPushesWithItsOwnToken, and with a key that it makes for as long as it runs.
func TestAJobPushesWithItsOwnToken(t *testing.T) {
	skopeo := tool(t, "skopeo")
	g, f := startForJobs(t)
	h := newHome(t)
	h.allowUnsigned()
	pushed := fileImage(t)
	pushed.writeLayout(t, h.path("pushed"), "v1")
	push := func(user, password, tag string) []string {
		return []string{"copy", "--dest-tls-verify=false", "--dest-creds=" + user + ":" + password, "oci:" + h.path("pushed") + ":v1", "docker://" + g.name("blumeops/job:"+tag)}
	}
	job := f.jobToken(jobLasts)
	g.keep("token of a job", job)
	made := expect(t, http.StatusCreated)(g.as(job)(http.MethodPost, "/auth/apikey", nil, []byte(`{"label":"job 7"}`)))
	key := decode[struct{ APIKey string }](t, made.body).APIKey
	g.keep("API key", key)
	h.run(skopeo, push("any", job, "v1")...)
	pushed.wantSame(t, g.image("blumeops/job", "v1"))

	eventually(t, "the job's token has expired", func() error {
		a, err := g.as(job)(http.MethodGet, "/v2/", nil, nil)
		if err == nil && (a.status != http.StatusUnauthorized || !strings.Contains(string(a.body), "expired")) {
			err = fmt.Errorf("answer %v", a)
		}
		return err
	})
	h.mustFail("the token has expired", skopeo, push("any", job, "v2")...)
	h.run(skopeo, push("ci:eblume/app", key, "v2")...)
	pushed.wantSame(t, g.image("blumeops/job", "v2"))
}

// TestClientsFetchAnotherTokenWhenOneExpires before the last step of a push. The other
// clients do not wait to be told, but go by how long the token said it lasts.
func TestClientsFetchAnotherTokenWhenOneExpires(t *testing.T) {
	g, f := startForJobs(t)
	key := g.madeKey("zot-ci", "artifact-workloads")
	job := f.jobToken(jobLasts)
	g.keep("token of a job", job)
	expired := g.token(job, "repository:blumeops/x:pull,push")
	eventually(t, "the token has expired", func() error {
		a, err := g.authorized("Bearer "+expired)(http.MethodGet, "/v2/", nil, nil)
		if err == nil && a.status != http.StatusUnauthorized {
			err = fmt.Errorf("answer %v", a)
		}
		return err
	})
	for _, client := range []struct {
		name   string
		pushes func(*guarded, string)
	}{
		{"containerd 1", containerd1Pushes},
		{"containerd 2", containerd2Pushes},
		{"buildkit", buildkitPushes},
		{"crane", cranePushes},
		{"oras", orasPushes},
		{"helm", helmPushes},
	} {
		t.Run(client.name, func(t *testing.T) {
			proxy := expireToken(g.in(t), expired)
			client.pushes(proxy.guarded, key)
			if !proxy.expired.Load() {
				t.Error("no token expired")
			}
		})
	}
}

// expiring is a way to a registry on which a token expires.
type expiring struct {
	*guarded
	expired atomic.Bool
}

// expireToken returns a way to a registry on which a token is replaced by an expired one
// where it is used first to push a manifest.
func expireToken(g *guarded, expired string) *expiring {
	target, err := url.Parse(g.url(""))
	if err != nil {
		g.t.Fatal(err)
	}
	e := &expiring{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host // but it asks by the name of this
			pushes := r.In.Method == http.MethodPut && strings.Contains(r.In.URL.Path, "/manifests/")
			if pushes && strings.HasPrefix(r.In.Header.Get("Authorization"), "Bearer ") && e.expired.CompareAndSwap(false, true) {
				r.Out.Header.Set("Authorization", "Bearer "+expired)
			}
		},
		// Clients break requests off that they do not need any more.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := httptest.NewServer(proxy)
	g.t.Cleanup(server.Close)
	e.guarded = g.in(g.t)
	e.addr = strings.TrimPrefix(server.URL, "http://")
	return e
}

func readAll(t *testing.T, response *http.Response) []byte {
	t.Helper()
	a, err := readAnswer(response)
	if err != nil {
		t.Fatalf("the answer was cut after %d bytes: %v", len(a.body), err)
	}
	return a.body
}
