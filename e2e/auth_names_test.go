//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestAKeyForCICapturesNoName that others pull from another registry by, on none of a
// server's sites, until an admin has made it one of this registry.
func TestAKeyForCICapturesNoName(t *testing.T) {
	skopeo := tool(t, "skopeo")
	hub := upstreamtest.Start(t)
	debian, published := fileImage(t), fileImage(t)
	publish(t, hub, "library/debian", "v1", debian)
	publish(t, hub, "grafana/x", "v1", published)

	g := newGuarded(t)
	g.idp.start()
	address := "127.0.0.1:" + lastingPort(t)
	g.sites = fmt.Sprintf(`%s {
	bind 127.0.0.1
	log
	registry_auth {
		policy ** {
			anonymous read
			group artifact-workloads read create
			group admins read create update delete
		}
	}
	registry
}
`, "http://"+address)
	g.start(cacheOf(cached("docker.io", hub.URL()), "default docker.io"))
	other := g.in(t) // site of the same server
	other.addr = address
	ci, admin := g.keyOf("zot-ci"), g.madeKey("alice", "admins")

	h := newHome(t)
	h.allowUnsigned()
	own := fileImage(t)
	own.writeLayout(t, h.path("own"), "v1")
	push := func(g *guarded, user, key, to string) []string {
		return []string{"copy", "--dest-tls-verify=false", "--dest-creds=" + user + ":" + key, "oci:" + h.path("own") + ":v1", "docker://" + g.name(to)}
	}
	sites := map[string]*guarded{"the site with the cache": g, "the site without": other}

	for where, site := range sites {
		t.Run("not on "+where, func(t *testing.T) {
			site, h := site.in(t), h.in(t)
			for _, name := range []string{"debian", "library/debian", "library/new", "docker.io/library/x", "docker.io/grafana/x", "ghcr.io/new/x"} {
				for who, key := range map[string]string{"CI": ci, "an admin": admin} {
					for _, a := range pushesOf(t, site.as(key), name) {
						if a.status != http.StatusMethodNotAllowed {
							t.Errorf("%s pushes to %s: %v", who, name, a)
						}
						wantRefused(t, a, http.StatusMethodNotAllowed, "UNSUPPORTED")
					}
				}
			}
			for _, name := range []string{"grafana/x", "grafana/new", "never/used"} {
				for _, a := range pushesOf(t, site.as(ci), name) {
					wantRefused(t, a, http.StatusForbidden, "DENIED", "zot-ci may not update")
				}
			}
			h.mustFail("zot-ci may not update", skopeo, push(site, "zot-ci", ci, "grafana/x:v1")...)
			if debian.Digest == own.Digest || published.Digest == own.Digest {
				t.Fatal("the images are the same")
			}
			debian.wantSame(t, g.in(t).image("library/debian", "v1"))
			published.wantSame(t, g.in(t).image("grafana/x", "v1"))
		})
	}

	t.Run("an admin may", func(t *testing.T) {
		g, h := g.in(t), h.in(t)
		h.run(skopeo, push(g, "alice", admin, "grafana/x:v1")...)
		own.wantSame(t, g.image("grafana/x", "v1"))
		published.wantSame(t, g.image("docker.io/grafana/x", "v1"))
	})
	t.Run("then CI may push what is new there", func(t *testing.T) {
		for where, site := range sites {
			site, h := site.in(t), h.in(t)
			tag := fmt.Sprintf("v%d", len(where))
			h.run(skopeo, push(site, "zot-ci", ci, "grafana/y:"+tag)...)
			own.wantSame(t, site.image("grafana/y", tag))
			manifest := imageOf(map[string]string{"other": "content"}, []byte("blob"))
			mustPush(t, site.as(ci), "grafana/z", tag, []byte("blob"))
			wantRefused(t, expect(t, http.StatusForbidden)(pushManifest(site.as(ci), "grafana/z", tag, manifest)), http.StatusForbidden, "DENIED", "zot-ci may not update")
		}
		hub.Reset()
		expect(t, http.StatusNotFound)(g.anonymous(http.MethodGet, "/v2/grafana/missing/manifests/v1", nil, nil))
		if asked := hub.Requests(); len(asked) > 0 {
			t.Errorf("for what is private now the upstream was asked %v", asked)
		}
	})
}

// pushesOf returns the answers to each way that a push of a repository can begin.
func pushesOf(t *testing.T, send sender, repository string) (answers []answer) {
	t.Helper()
	blob := []byte("blob")
	manifest := imageOf(nil, blob)
	for _, request := range []func() (answer, error){
		func() (answer, error) {
			return send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil, nil)
		},
		func() (answer, error) { return pushBlob(send, repository, "single POST", blob) },
		func() (answer, error) {
			return send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?mount="+digest.FromBytes(blob).String()+"&from=some/image", nil, nil)
		},
		func() (answer, error) { return pushManifest(send, repository, "new", manifest) },
		func() (answer, error) {
			return pushManifest(send, repository, digest.FromBytes(manifest).String(), manifest)
		},
	} {
		a, err := request()
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, a)
	}
	return answers
}
