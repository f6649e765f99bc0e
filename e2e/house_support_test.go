//go:build e2e

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

const (
	houseName = "registry.ops.eblu.me"
	// houseHosts are the names of examples/blumeops, and of the registries that it caches,
	// in a network without others.
	houseHosts = `127.0.0.1 localhost registry.ops.eblu.me other.ops.eblu.me host.minikube.internal
127.0.0.2 registry-1.docker.io ghcr.io quay.io
`
	// internetCaddyfile is the other registries, over TLS by their own names.
	internetCaddyfile = `{
	admin off
	skip_install_trust
	local_certs
}
https://registry-1.docker.io {
	bind 127.0.0.2
	reverse_proxy %s
}
https://ghcr.io {
	bind 127.0.0.2
	reverse_proxy %s
}
https://quay.io {
	bind 127.0.0.2
	reverse_proxy %s
}
`
	// authorityFile is where Caddy keeps the certificate of its own authority.
	authorityFile = ".local/share/caddy/pki/authorities/local/root.crt"
	// systemRoots is where programs look for the authorities that they trust.
	systemRoots = "/etc/ssl/certs/ca-certificates.crt"
)

// house is examples/blumeops, with all that it lives with.
type house struct {
	*guarded
	forge     *forge
	upstreams map[string]*upstreamtest.Registry
	images    map[string]*image // by the names that clients know
	moved     *image            // that zot had as blumeops/moved:v1
	zotKey    string            // of zot-ci
}

// newHouse returns the house before its registry is started.
func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{
		guarded: &guarded{
			registry: &registry{t: t, addr: houseName}, scheme: "https",
			secrets: map[string]string{clientSecret: "client's secret"},
		},
		upstreams: make(map[string]*upstreamtest.Registry),
		images:    make(map[string]*image),
	}
	for name, repository := range map[string]string{"docker.io": "library/alpine", "ghcr.io": "goauthentik/server", "quay.io": "prometheus/prometheus"} {
		h.upstreams[name] = upstreamtest.Start(t)
		h.add(t, name, repository, "v1")
	}
	h.home = newHome(t)
	h.home.allowUnsigned()
	mountFile(t, h.home.write("authorities", ""), systemRoots)
	internet := newHome(t)
	d := internet.start(caddyBinary, "run", "--adapter", "caddyfile", "--config", internet.write("Caddyfile",
		fmt.Sprintf(internetCaddyfile, h.upstreams["docker.io"].URL(), h.upstreams["ghcr.io"].URL(), h.upstreams["quay.io"].URL())))
	h.trust(d, internet)

	h.idp = newIDP(t, "https://"+houseName)
	h.idp.start()
	h.forge = startForge(t)
	h.forge.audience = houseName
	h.home.env = append(h.home.env, "OIDC_CLIENT_SECRET="+clientSecret, "GANDI_BEARER_TOKEN=none")
	h.config = h.home.write("Caddyfile", replaced(t, exampleFile(t, "blumeops/Caddyfile"),
		"dns gandi {env.GANDI_BEARER_TOKEN}", "issuer internal",
		"https://authentik.ops.eblu.me/application/o/zot/", h.idp.issuer(),
		"https://forge.ops.eblu.me/api/actions", h.forge.url,
		"\tadmin off\n", "\tadmin off\n\tskip_install_trust\n",
	))
	return h
}

// exampleFile returns a file of the examples.
func exampleFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(examplePath(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func examplePath(t *testing.T, name string) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "examples", name)
}

// replaced returns a text in which pairs of old and new are replaced, each of which must
// be there.
func replaced(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("there is no %q in\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// add has an upstream publish another image.
func (h *house) add(t *testing.T, upstream, repository, tag string) {
	t.Helper()
	i := fileImage(t)
	publish(t, h.upstreams[upstream], repository, tag, i)
	h.images[upstream+"/"+repository+":"+tag] = i
}

// trust has everything trust the authority of a Caddy, when that has one.
func (h *house) trust(d *daemon, of *home) {
	h.t.Helper()
	d.waitUntil(func() error {
		_, err := os.Stat(of.path(authorityFile))
		return err
	})
	f, err := os.OpenFile(h.home.path("authorities"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	_, err = f.Write(of.read(authorityFile))
	if err := errors.Join(err, f.Close()); err != nil {
		h.t.Fatal(err)
	}
}

// moveFromZot imports a folder of zot's, with a key that its CI has.
func (h *house) moveFromZot() {
	t := h.t
	t.Helper()
	h.moved, h.zotKey = fileImage(t), "zak_0b9d2f6e6a1c4d0c8f1e5a7b3c2d1e0f"
	h.moved.writeLayout(t, h.home.path("zot/blumeops/moved"), "v1")
	db, err := bbolt.Open(h.home.path("zot/meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(strings.TrimPrefix(h.zotKey, "zak_")))
	err = db.Update(func(tx *bbolt.Tx) error {
		users, err := tx.CreateBucket([]byte("UserData"))
		if err != nil {
			return err
		}
		user, err := json.Marshal(map[string]any{
			"Groups": []string{"artifact-workloads"},
			"APIKeys": map[string]any{hex.EncodeToString(sum[:]): map[string]any{
				"label": "zot-ci-api", "createdAt": time.Now().Add(-time.Hour), "expirationDate": time.Now().Add(24 * time.Hour),
			}},
		})
		return errors.Join(err, users.Put([]byte("zot-ci"), user))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	out := h.home.run(caddyBinary, "registry", "import", h.home.path("zot"), "--link", "--config", h.config)
	if want := "imported 1 tag of 1 repository"; !strings.Contains(out, want) || !strings.Contains(out, "1 API key") {
		t.Errorf("import: %q, want %q and 1 API key", out, want)
	}
}

// serve starts the registry for as long as a part of the test lasts.
func (h *house) serve(t *testing.T) *house {
	t.Helper()
	part := h.in(t)
	part.server = part.home.start(caddyBinary, "run", "--config", h.config)
	h.trust(part.server, h.home)
	part.server.waitUntil(func() error {
		a, err := part.anonymous(http.MethodGet, "/v2/", nil, nil)
		if err == nil && a.status != http.StatusUnauthorized {
			err = fmt.Errorf("GET /v2/: %v", a)
		}
		return err
	})
	return part
}

// in returns the same house for a part of the test.
func (h *house) in(t *testing.T) *house {
	part := *h
	part.guarded = h.guarded.in(t)
	return &part
}

// port returns the registry by its port without TLS.
func (h *house) port() *registry { return &registry{t: h.t, addr: "localhost:5050", server: h.server} }

// wantAsked fails the test unless the access log has a request for a path, that is, the
// registry was asked.
func (h *house) wantAsked(path string) {
	h.t.Helper()
	h.registry.waitUntilLogged(`"uri":"` + path)
}

// stored reports whether a file with the bytes of a digest is in the data directory.
func (h *house) stored(d digest.Digest) bool {
	_, err := os.Stat(h.home.path("registry/blobs/sha256/" + d.Encoded()[:2] + "/" + d.Encoded()))
	return err == nil
}
