//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestHouse runs examples/blumeops as it stands, but for who certifies its names and where
// its identity provider and forge are: each part is a row of what the house is used for.
func TestHouse(t *testing.T) {
	if !alone(t, houseHosts) {
		return
	}
	h := newHouse(t)
	h.moveFromZot()
	old, new := startContainerd1(t), startContainerd2(t, h.port())
	t.Run("while it serves", func(t *testing.T) {
		h := h.serve(t)
		t.Run("URL over TLS", func(t *testing.T) { h.in(t).servesOverTLS() })
		t.Run("local port 5050", func(t *testing.T) { h.in(t).servesLocally() })
		for name := range h.images {
			t.Run("pull-through of "+name, func(t *testing.T) { h.in(t).cachesFor(name) })
		}
		t.Run("blumeops is private", func(t *testing.T) { h.in(t).keepsToItself() })
		t.Run("containerd 1 asks here first", func(t *testing.T) { h.in(t).isAskedFirst(old.in(t)) })
		t.Run("containerd 2 asks here first", func(t *testing.T) { h.in(t).isAskedFirst(new.in(t)) })
		t.Run("k3s asks here first", func(t *testing.T) { h.in(t).isAskedByK3s(new.in(t)) })
		t.Run("docker asks here first", func(t *testing.T) { h.in(t).isAskedByDocker() })
		t.Run("what zot had, and its key", func(t *testing.T) { h.in(t).hasMoved() })
		t.Run("OIDC login, three tiers, and a key of 90 days for CI", func(t *testing.T) { h.in(t).hasTiers() })
		t.Run("workflow with an API key", func(t *testing.T) { h.in(t).worksWithKey() })
		t.Run("workflow with workload identity", func(t *testing.T) { h.in(t).worksWithIdentity() })
		t.Run("rotation by cron", func(t *testing.T) { h.in(t).rotates() })
		t.Run("data directory", func(t *testing.T) { h.in(t).keepsData() })
	})
	t.Run("containerd falls through when it is down", func(t *testing.T) {
		h := h.in(t)
		h.add(t, "docker.io", "library/fallen", "v1")
		for _, c := range []*containerd{old.in(t), new.in(t)} {
			c.pulls(only(h.images, "docker.io/library/fallen:v1"), "--hosts-dir", examplePath(t, "blumeops/containerd"))
		}
	})
}

func only(images map[string]*image, name string) map[string]*image {
	return map[string]*image{name: images[name]}
}

func (h *house) servesOverTLS() {
	t := h.t
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(h.home.read(authorityFile)) {
		t.Fatal("Caddy's authority has no certificate")
	}
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	get := func(url string) answer {
		t.Helper()
		response, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		a, err := readAnswer(response)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := get("https://registry.ops.eblu.me/v2/")
	if want := `Bearer realm="https://registry.ops.eblu.me/auth/token",service="registry.ops.eblu.me"`; a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") != want {
		t.Errorf("/v2/: %v with the challenge %q, want %q", a, a.header.Get("WWW-Authenticate"), want)
	}
	if a := get("https://registry.ops.eblu.me/readyz"); a.status != http.StatusOK || !strings.Contains(string(a.body), `"status":"ready"`) {
		t.Errorf("/readyz: %v %s", a, a.body)
	}
	if a := get("https://other.ops.eblu.me/v2/"); a.status != http.StatusNotFound || string(a.body) != "There is no such service." {
		t.Errorf("another name beside it: %v", a)
	}
	if a := get("http://registry.ops.eblu.me/"); a.header.Get("Location") != "https://registry.ops.eblu.me/" {
		t.Errorf("without TLS: %v to %q", a, a.header.Get("Location"))
	}
}

func (h *house) servesLocally() {
	r := h.port()
	if status, _, _ := r.do(http.MethodGet, "/v2/"); status != http.StatusUnauthorized {
		h.t.Errorf("/v2/: %d", status)
	}
	if _, body := r.get("/metrics"); !bytes.Contains(body, []byte("registry_storage_size_bytes")) {
		h.t.Errorf("/metrics: %s", body)
	}
	if _, body := r.get("/v2/_catalog"); !bytes.Contains(body, []byte("blumeops/moved")) {
		h.t.Errorf("/v2/_catalog: %s", body)
	}
	r.get("/v2/blumeops/moved/tags/list")
}

func (h *house) cachesFor(name string) {
	repository, tag, _ := strings.Cut(name, ":")
	h.home.run(tool(h.t, "skopeo"), "copy", "docker://"+houseName+"/"+name, "oci:"+h.home.mkdir("pulled/"+repository)+":"+tag)
	h.images[name].wantSame(h.t, h.port().image(repository, tag))
}

// keepsToItself asks for a name of the house's own in all ways that might mean another's.
func (h *house) keepsToItself() {
	r := h.port()
	for _, path := range []string{"/v2/blumeops/none/manifests/v1", "/v2/blumeops/none/tags/list", "/v2/blumeops/none/manifests/v1?ns=" + houseName} {
		if status, _, body := r.do(http.MethodGet, path); status != http.StatusNotFound {
			h.t.Errorf("%s: %d %s", path, status, body)
		}
	}
	for name, upstream := range h.upstreams {
		for _, request := range upstream.Requests() {
			if strings.Contains(request.Path, "blumeops") {
				h.t.Errorf("%s was asked for %s", name, request.Path)
			}
		}
	}
}

// isAskedFirst has containerd pull by its own configuration, and by the house's other name.
func (h *house) isAskedFirst(c *containerd) {
	hosts := examplePath(h.t, "blumeops/containerd")
	for name := range h.images {
		c.pulls(only(h.images, name), "--hosts-dir", hosts)
		upstream, rest, _ := strings.Cut(name, "/")
		repository, _, _ := strings.Cut(rest, ":")
		h.wantAsked("/v2/" + repository + "/manifests/v1?ns=" + upstream)
	}
	c.pulls(map[string]*image{houseName + "/blumeops/moved:v1": h.moved}, "--hosts-dir", hosts)
	h.wantAsked("/v2/blumeops/moved/manifests/v1?ns=" + houseName)
}

// isAskedByK3s has containerd pull by the files that k3s makes of registries.yaml.
func (h *house) isAskedByK3s(c *containerd) {
	mirrors := decodeYAML[struct {
		Mirrors map[string]struct{ Endpoint []string }
	}](h.t, exampleFile(h.t, "blumeops/k3s/registries.yaml")).Mirrors
	for name, mirror := range mirrors {
		var lines strings.Builder
		for _, endpoint := range mirror.Endpoint {
			fmt.Fprintf(&lines, "[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", endpoint+"/v2")
		}
		c.write("k3s/"+name+"/hosts.toml", lines.String())
	}
	if len(mirrors) != 4 {
		h.t.Errorf("there are %d mirrors, want those of three registries and its own", len(mirrors))
	}
	c.pulls(h.images, "--hosts-dir", c.path("k3s"))
	c.pulls(map[string]*image{houseName + "/blumeops/moved:v1": h.moved}, "--hosts-dir", c.path("k3s"))
}

func (h *house) isAskedByDocker() {
	d := startDockerWith(h.t, decode[map[string]any](h.t, []byte(exampleFile(h.t, "blumeops/docker/daemon.json"))))
	d.command("pull", "alpine:v1")
	if got, want := d.file("alpine:v1", "data"), h.images["docker.io/library/alpine:v1"].file(h.t, "data"); !bytes.Equal(got, want) {
		h.t.Errorf("docker pulled %d bytes, want %d others", len(got), len(want))
	}
	h.wantAsked("/v2/library/alpine/manifests/v1")
	d.command("pull", houseName+"/blumeops/moved:v1")
}

func (h *house) hasMoved() {
	h.moved.wantSame(h.t, h.port().image("blumeops/moved", "v1"))
	if err := h.pushes("zot-ci", h.zotKey, fileImage(h.t), "blumeops/by-zots-key:v1"); err != nil {
		h.t.Error(err)
	}
}

// pushes pushes an image as CI does.
func (h *house) pushes(user, key string, i *image, to string) error {
	dir := h.home.path("push/" + i.Digest.Encoded())
	i.writeLayout(h.t, dir, "v1")
	_, stderr, err := h.home.try(tool(h.t, "skopeo"), "copy", "--dest-creds="+user+":"+key, "oci:"+dir+":v1", "docker://"+houseName+"/"+to)
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr)
	}
	return nil
}

func (h *house) hasTiers() {
	t := h.t
	b := startBrowser(t, houseName)
	if b.open(h.url("/")); !strings.Contains(b.text(), "SIGN IN WITH OIDC") {
		t.Fatalf("/ says %s", b.text())
	}
	if status := b.signIn("zot-ci"); status != http.StatusOK {
		t.Fatalf("signing in ended with status %d at %s:\n%s", status, b.location(), b.text())
	}
	b.open(h.url("/user/apikey"))
	key := h.newKey(b, "forgejo")
	b.at(h.url("/user/apikey"), "90 days left")
	b.do(chromedp.Click(labelled("Copy")), chromedp.WaitVisible(labelled("Copied")))

	first, other := fileImage(t), fileImage(t)
	if err := h.pushes("zot-ci", key, first, "blumeops/hello:v1"); err != nil {
		t.Errorf("CI may not create: %v", err)
	}
	if err := h.pushes("zot-ci", key, other, "blumeops/hello:v1"); err == nil || !strings.Contains(err.Error(), "zot-ci may not update") {
		t.Errorf("CI overwrites a tag: %v", err)
	}
	first.wantSame(t, h.port().image("blumeops/hello", "v1")) // without credentials
	if err := h.pushes("zot-ci", key, other, "docker.io/library/alpine:v2"); err == nil {
		t.Error("what is cached takes a push")
	}

	admin := b.anew()
	h.login(admin, "alice")
	all := h.newKey(admin, "alice's")
	if err := h.pushes("alice", all, other, "blumeops/hello:v1"); err != nil {
		t.Errorf("an admin may not update: %v", err)
	}
	h.home.run(tool(t, "skopeo"), "delete", "--creds=alice:"+all, "docker://"+houseName+"/blumeops/hello:v1")
	reader := b.anew()
	h.login(reader, "carol")
	if err := h.pushes("carol", h.newKey(reader, "carol's"), first, "blumeops/carol:v1"); err == nil || !strings.Contains(err.Error(), "carol may not create") {
		t.Errorf("somebody in no group pushes: %v", err)
	}
}

// ciKey returns a key of CI's.
func (h *house) ciKey() string { return h.madeKey("zot-ci", "artifact-workloads") }

func (h *house) worksWithKey() {
	h.runWorkflow("push-with-key.yaml", "v1.0", "ZOT_CI_API="+h.ciKey())
}

func (h *house) worksWithIdentity() {
	// What a runner has for its jobs (GitHub's and Forgejo's protocol for OIDC tokens).
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "bearer request-token" || r.URL.Query().Get("audience") != houseName {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = w.Write(encode(h.t, map[string]string{"value": h.forge.jobToken(5 * time.Minute)}))
	}))
	h.t.Cleanup(tokens.Close)
	h.home.env = append(h.home.env, "ACTIONS_ID_TOKEN_REQUEST_URL="+tokens.URL+"?v=1", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=request-token")
	h.runWorkflow("push-with-identity.yaml", "v2.0")
}

func (h *house) rotates() {
	t := h.t
	before := h.ciKey()
	file := h.home.write("ci-key", before)
	script := examplePath(t, "blumeops/rotate/rotate-key")
	var path, token, body string
	forgejo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := new(bytes.Buffer)
		_, _ = a.ReadFrom(r.Body)
		path, token, body = r.Method+" "+r.URL.Path, r.Header.Get("Authorization"), a.String()
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(forgejo.Close)
	h.home.env = append(h.home.env, "FORGEJO_URL="+forgejo.URL, "FORGEJO_TOKEN="+h.home.write("forgejo-token", "secret-of-forgejo"))
	h.home.run(script, "https://"+houseName, file, examplePath(t, "blumeops/rotate/set-forgejo-secret"))
	after := string(bytes.TrimSpace(h.home.read("ci-key")))
	if !keyPattern.MatchString(after) || after == before {
		t.Fatalf("the file has %q after the rotation", after)
	}
	h.keep("API key", after)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the key: %v, %v", info.Mode(), err)
	}
	if want := `{"data":"` + after + `"}`; path != "PUT /api/v1/orgs/eblume/actions/secrets/ZOT_CI_API" || token != "token secret-of-forgejo" || body != want {
		t.Errorf("Forgejo was told %s, %s, %s", path, token, body)
	}
	for what, key := range map[string]string{"new": after, "old, for a day": before} {
		if err := h.pushes("zot-ci", key, fileImage(t), "blumeops/rotated:"+what[:3]); err != nil {
			t.Errorf("the key that is %s: %v", what, err)
		}
	}
	h.home.write("ci-key", "crk_wrong")
	h.home.mustFail("401", script, "https://"+houseName, file)
	if got := string(h.home.read("ci-key")); got != "crk_wrong" {
		t.Errorf("a rotation that failed left %q", got)
	}
}

func (h *house) keepsData() {
	if _, err := os.Stat(h.home.path("registry/registry.db")); err != nil {
		h.t.Error(err)
	}
	for name, i := range h.images {
		for _, d := range blobsOf(h.t, i) {
			if !h.stored(d) {
				h.t.Errorf("%s of %s is not in ~/registry", d, name)
			}
		}
	}
}
