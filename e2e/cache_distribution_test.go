//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCacheOfDistribution has CNCF's distribution as the upstream, with a token service
// that lets nobody pull without a password.
func TestCacheOfDistribution(t *testing.T) {
	tokens := startTokenService(t)
	up := startDistribution(t, tokens)
	crane, skopeo, h := tool(t, "crane"), tool(t, "skopeo"), newHome(t)
	h.allowUnsigned()
	single, platforms := fileImage(t), newPlatforms(t)
	for repository, i := range map[string]*image{"team/image": single, "team/platforms": platforms} {
		i.writeLayout(t, h.path(repository), "v1")
		h.run(skopeo, "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", "--dest-creds=pusher:secret",
			"oci:"+h.path(repository)+":v1", "docker://"+up.addr+"/"+repository+":v1")
	}

	t.Run("with a password", func(t *testing.T) {
		r := startRegistry(t, cacheOf(cached("distribution.example.com", "http://"+up.addr, "credentials puller secret", "allow team/**", "deny team/hidden")))
		c := startContainerd1(t)
		c.write("certs.d/distribution.example.com/hosts.toml", fmt.Sprintf("server = \"https://distribution.example.com\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", r.addr))
		for n := range 2 {
			before := len(up.blobGets(t))
			for repository, want := range map[string]*image{"team/image": single, "team/platforms": platforms} {
				dir := h.path(fmt.Sprint(repository, n))
				h.in(t).run(crane, "pull", "--format=oci", r.name("distribution.example.com/"+repository+":v1"), dir)
				want.wantLayout(t, dir)
			}
			c.pulls(map[string]*image{"distribution.example.com/team/image:v1": single}, "--hosts-dir", c.path("certs.d"))
			gets := up.blobGets(t)[before:]
			if want := len(blobsOf(t, single)) + len(blobsOf(t, platforms)); n == 0 && len(gets) != want {
				t.Errorf("the upstream was asked for %d blobs, want %d: %q", len(gets), want, gets)
			}
			if n > 0 && len(gets) > 0 {
				t.Errorf("the upstream was asked again for %q", gets)
			}
		}
		status, _, body := r.do(http.MethodGet, "/v2/distribution.example.com/team/image/tags/list")
		if status != http.StatusOK || !strings.Contains(string(body), `"v1"`) {
			t.Errorf("tags: %d %s", status, body)
		}
		for path, want := range map[string]int{
			"/v2/distribution.example.com/team/image/manifests/absent": http.StatusNotFound,
			"/v2/distribution.example.com/team/absent/manifests/v1":    http.StatusNotFound,
			"/v2/distribution.example.com/team/hidden/manifests/v1":    http.StatusForbidden,
			"/v2/distribution.example.com/other/image/manifests/v1":    http.StatusForbidden,
		} {
			if status, _, body := r.do(http.MethodGet, path); status != want {
				t.Errorf("%s: %d %s, want %d", path, status, body, want)
			}
		}
	})
	t.Run("without a password", func(t *testing.T) {
		r := startRegistry(t, cacheOf(cached("distribution.example.com", "http://"+up.addr)))
		status, _, body := r.do(http.MethodGet, "/v2/distribution.example.com/team/image/manifests/v1")
		if status != http.StatusForbidden || !strings.Contains(string(body), "distribution.example.com") {
			t.Errorf("%d %s, want 403 with the upstream's name", status, body)
		}
	})
}

// upstreamProcess is a registry in a process of its own.
type upstreamProcess struct {
	addr string
	log  string
}

// startDistribution starts CNCF's distribution, which asks a service's tokens of everybody.
func startDistribution(t *testing.T, service tokenService) upstreamProcess {
	t.Helper()
	h := newHome(t)
	// It takes variables that begin with REGISTRY_ for its configuration.
	h.env = slices.DeleteFunc(h.env, func(variable string) bool { return strings.HasPrefix(variable, "REGISTRY_") })
	addr := freeAddr(t)
	config := h.write("config.yml", fmt.Sprintf(`version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: %s
http:
  addr: %s
auth:
  token:
    realm: %s/token
    service: distribution
    issuer: token-service
    jwks: %s
`, h.path("storage"), addr, service.url, h.write("keys.json", service.keys)))
	d := h.start(tool(t, "registry"), "serve", config)
	d.waitUntil(func() error {
		response, err := http.Get("http://" + addr + "/v2/")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("GET /v2/: %s", response.Status)
		}
		return nil
	})
	return upstreamProcess{addr, d.log}
}

// blobGets returns what of the upstream's access log is of blobs that were pulled.
func (u upstreamProcess) blobGets(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(u.log)
	if err != nil {
		t.Fatal(err)
	}
	var gets []string
	for line := range strings.Lines(string(content)) {
		if strings.Contains(line, `"GET /v2/`) && strings.Contains(line, "/blobs/sha256:") && strings.Contains(line, `" 200 `) {
			gets = append(gets, line)
		}
	}
	return gets
}

// tokenService gives tokens to people with a password.
type tokenService struct {
	url  string
	keys string // by which its tokens are verified, as a JWKS
}

// startTokenService starts a service that lets pusher push and pull, puller pull, and
// others nothing, though it gives them tokens.
func startTokenService(t *testing.T) tokenService {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		username, password, _ := r.BasicAuth()
		type access struct {
			Type    string   `json:"type"`
			Name    string   `json:"name"`
			Actions []string `json:"actions"`
		}
		granted := []access{}
		for _, scope := range strings.Fields(strings.Join(r.URL.Query()["scope"], " ")) {
			parts := strings.Split(scope, ":")
			if len(parts) != 3 || password != "secret" {
				continue
			}
			actions := strings.Split(parts[2], ",")
			if username != "pusher" {
				actions = slices.DeleteFunc(actions, func(action string) bool { return action != "pull" })
			}
			granted = append(granted, access{parts[0], parts[1], actions})
		}
		now := time.Now().Unix()
		token := signToken(t, key, map[string]any{
			"iss": "token-service", "sub": username, "aud": []string{"distribution"},
			"iat": now, "nbf": now - 10, "exp": now + 300, "jti": fmt.Sprintf("%x", randomBytes(8)), "access": granted,
		})
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
	}))
	t.Cleanup(server.Close)
	public, err := key.PublicKey.Bytes() // 4, then both coordinates
	if err != nil {
		t.Fatal(err)
	}
	keys := string(encode(t, map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": keyID,
		"x": base64.RawURLEncoding.EncodeToString(public[1:33]),
		"y": base64.RawURLEncoding.EncodeToString(public[33:]),
	}}}))
	return tokenService{server.URL, keys}
}

const keyID = "token-service-key"

// signToken returns a JSON Web Token with ES256.
func signToken(t *testing.T, key *ecdsa.PrivateKey, claims map[string]any) string {
	header := map[string]string{"alg": "ES256", "typ": "JWT", "kid": keyID}
	signed := base64.RawURLEncoding.EncodeToString(encode(t, header)) + "." + base64.RawURLEncoding.EncodeToString(encode(t, claims))
	hash := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, hash[:])
	if err != nil {
		t.Error(err)
		return ""
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}
