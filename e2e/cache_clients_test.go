//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// ownName is what clients call the registry whose address they are told in their
// configuration.
const ownName = "registry.example.com"

// mirror is a registry that caches three others. All of them, and itself, have an image
// of the same name, each another one, so that a mix-up shows.
type mirror struct {
	*registry
	upstreams map[string]*upstreamtest.Registry
	images    map[string]*image // by their names with a registry's
}

// startMirror starts a registry as it is for a cluster, with Docker Hub as default.
func startMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{upstreams: make(map[string]*upstreamtest.Registry), images: make(map[string]*image)}
	var lines []string
	for _, name := range []string{"docker.io", "ghcr.io", "quay.io"} {
		up := upstreamtest.Start(t)
		m.upstreams[name] = up
		lines = append(lines, cached(name, up.URL()))
		m.add(t, name, "o/x")
	}
	// Each registry has its own way to say who may pull.
	m.upstreams["docker.io"].RequireBearer(upstreamtest.Tokens{})
	m.upstreams["quay.io"].RedirectBlobs()
	m.add(t, "docker.io", "library/debian")
	m.registry = startRegistry(t, cacheOf(append(lines, "default docker.io", "local_hosts "+ownName)...))
	own := fileImage(t)
	h := newHome(t)
	own.writeLayout(t, h.path("own"), "v1")
	h.run(tool(t, "crane"), "push", h.path("own"), m.name("o/x:v1"))
	m.images[ownName+"/o/x:v1"] = own
	return m
}

func (m *mirror) add(t *testing.T, upstream, repository string) {
	t.Helper()
	i := fileImage(t)
	publish(t, m.upstreams[upstream], repository, "v1", i)
	m.images[upstream+"/"+repository+":v1"] = i
}

func (m *mirror) in(t *testing.T) *mirror {
	return &mirror{registry: m.registry.in(t), upstreams: m.upstreams, images: m.images}
}

// watch runs a pull of some of an upstream's images for the first time or again, and
// checks what that asks of the upstream: each blob once, and then nothing any more.
func (m *mirror) watch(first bool, pull func()) {
	m.t.Helper()
	for _, up := range m.upstreams {
		up.Reset()
	}
	pull()
	asked := make(map[string]int)
	for name, up := range m.upstreams {
		if !first && len(up.Requests()) > 0 {
			m.t.Errorf("%s was asked for %v again", name, up.Requests())
		}
		for _, request := range up.Requests().Blobs().Method("GET") {
			if !request.CDN { // to which a request was redirected
				asked[name+request.Path]++
			}
		}
	}
	for path, n := range asked {
		if n > 1 {
			m.t.Errorf("asked %d times for %s", n, path)
		}
	}
	if first && len(asked) == 0 {
		m.t.Error("nothing was asked for")
	}
}

// hostsFiles are containerd's files for hosts, by the registries whose images it pulls
// from the mirror: they name the mirror, and nothing of what it is asked for.
func (m *mirror) hostsFiles(c *containerd, folder string) string {
	for _, name := range []string{"docker.io", "ghcr.io", "quay.io", ownName} {
		c.write(folder+"/"+name+"/hosts.toml", fmt.Sprintf(`server = "https://%s"

[host."http://%s"]
  capabilities = ["pull", "resolve"]
`, name, m.addr))
	}
	return c.path(folder)
}

// overridingHostsFiles tell by the path which registry is meant.
func (m *mirror) overridingHostsFiles(c *containerd, folder string) string {
	for name := range m.upstreams {
		c.write(folder+"/"+name+"/hosts.toml", fmt.Sprintf(`server = "https://%s"

[host."http://%s/v2/%s"]
  capabilities = ["pull", "resolve"]
  override_path = true
`, name, m.addr, name))
	}
	return c.path(folder)
}

// pulls pulls images through the mirror and forgets them.
func (c *containerd) pulls(images map[string]*image, flags ...string) {
	c.t.Helper()
	for name, want := range images {
		c.command("images pull", flags, name)
		if listed := c.command("images ls", nil, "name=="+name); !strings.Contains(listed, want.Digest.String()) {
			c.t.Errorf("%s is not %s: %s", name, want.Digest, listed)
		}
		c.wantContent(want)
		c.forget(name)
	}
}

// withHost returns the images whose name begins with one of some hosts.
func withHost(images map[string]*image, hosts ...string) map[string]*image {
	found := maps.Clone(images)
	maps.DeleteFunc(found, func(name string, _ *image) bool {
		host, _, _ := strings.Cut(name, "/")
		return !slices.Contains(hosts, host)
	})
	return found
}

func TestContainerd1PullsThroughCache(t *testing.T) {
	m := startMirror(t)
	c := startContainerd1(t)
	m.pulledByContainerd(c)
}

func TestContainerd2PullsThroughCache(t *testing.T) {
	m := startMirror(t)
	c := startContainerd2(t, m.registry)
	m.pulledByContainerd(c)
	m.waitUntilLogged(fmt.Sprintf(`"Range":["bytes=%d-"]`, fetchBuffer)) // a second part was asked for

	t.Run("in parts that have not arrived yet", func(t *testing.T) {
		m, c := m.in(t), c.in(t)
		const name = "quay.io/o/slow:v1"
		m.add(t, "quay.io", "o/slow")
		hosts := m.hostsFiles(c, "slow")
		m.upstreams["quay.io"].SetRate(2 << 20)
		m.watch(true, func() {
			c.pulls(map[string]*image{name: m.images[name]}, "--hosts-dir", hosts)
		})
	})
	t.Run("by the client", func(t *testing.T) {
		m := startMirror(t)
		c := c.in(t)
		hosts := m.hostsFiles(c, "client")
		m.watch(true, func() { c.pulls(m.images, "--local", "--hosts-dir", hosts) })
		m.watch(false, func() { c.pulls(m.images, "--local", "--hosts-dir", hosts) })
	})
}

// pulledByContainerd pulls all images of a mirror twice, then by other names.
func (m *mirror) pulledByContainerd(c *containerd) {
	t := m.t
	t.Run("only ns tells whose image is meant", func(t *testing.T) {
		m, c := m.in(t), c.in(t)
		hosts := m.hostsFiles(c, "ns")
		m.watch(true, func() { c.pulls(m.images, "--hosts-dir", hosts) })
		m.watch(false, func() { c.pulls(m.images, "--hosts-dir", hosts) })
	})
	t.Run("the path tells too", func(t *testing.T) {
		m, c := m.in(t), c.in(t)
		hosts := m.overridingHostsFiles(c, "path")
		images := withHost(m.images, "docker.io", "ghcr.io", "quay.io")
		m.watch(false, func() { c.pulls(images, "--hosts-dir", hosts) })
		for name := range m.upstreams {
			m.add(t, name, "o/new")
		}
		news := maps.Clone(m.images)
		maps.DeleteFunc(news, func(name string, _ *image) bool { return !strings.HasSuffix(name, "/o/new:v1") })
		m.watch(true, func() { c.pulls(news, "--hosts-dir", hosts) })
	})
	t.Run("the name has both registries", func(t *testing.T) {
		m, c := m.in(t), c.in(t)
		hosts := m.hostsFiles(c, "both")
		images := make(map[string]*image)
		for name, i := range withHost(m.images, "docker.io", "ghcr.io", "quay.io") {
			images[ownName+"/"+name] = i
		}
		m.watch(false, func() { c.pulls(images, "--hosts-dir", hosts) })
	})
}

func TestDockerPullsThroughCache(t *testing.T) {
	m := startMirror(t)
	d := startDocker(t, m.registry, "http://"+m.addr)
	m.add(t, "docker.io", "library/nginx")
	pulls := func(d *docker, name string, want *image) {
		d.t.Helper()
		d.command("pull", name)
		repository := strings.TrimSuffix(name, ":v1")
		if got, want := d.command("image", "inspect", "--format", "{{.Id}} {{index .RepoDigests 0}}", name),
			want.manifest(d.t).Config.Digest.String()+" "+repository+"@"+want.Digest.String(); got != want {
			d.t.Errorf("docker pulled %s, want %s", got, want)
		}
		if got := d.file(name, "data"); !bytes.Equal(got, want.file(d.t, "data")) {
			d.t.Errorf("%s has %d other bytes in its file", name, len(got))
		}
		d.forget(name)
	}
	t.Run("as the mirror of Docker Hub", func(t *testing.T) {
		m, d := m.in(t), d.in(t)
		want := m.images["docker.io/library/debian:v1"]
		m.watch(true, func() { pulls(d, "debian:v1", want) })
		m.watch(false, func() { pulls(d, "debian:v1", want) })
	})
	t.Run("by the name of the mirror", func(t *testing.T) {
		m, d := m.in(t), d.in(t)
		for pulled, name := range map[string]string{
			"docker.io/library/nginx": "docker.io/library/nginx",
			"docker.io/nginx":         "docker.io/library/nginx",
			"ghcr.io/o/x":             "ghcr.io/o/x",
			"quay.io/o/x":             "quay.io/o/x",
			"o/x":                     ownName + "/o/x",
		} {
			pull := func() { pulls(d, m.name(pulled+":v1"), m.images[name+":v1"]) }
			pull()
			m.watch(false, pull)
		}
	})
}

func TestPodmanPullsThroughCache(t *testing.T) {
	m := startMirror(t)
	for _, configuration := range []string{
		"[[registry]]\nprefix = \"%[1]s\"\nlocation = \"%[2]s/%[1]s\"\ninsecure = true\n",
		"[[registry]]\nlocation = \"%[1]s\"\n[[registry.mirror]]\nlocation = \"%[2]s/%[1]s\"\ninsecure = true\n",
	} {
		first := strings.Contains(configuration, "prefix")
		t.Run(map[bool]string{true: "as the location of others", false: "as the mirror of others"}[first], func(t *testing.T) {
			m, p := m.in(t), newPodman(t)
			var lines strings.Builder
			for name := range m.upstreams {
				fmt.Fprintf(&lines, configuration, name, m.addr)
			}
			p.write("registries.conf", lines.String())
			m.watch(first, func() {
				for name, want := range withHost(m.images, "docker.io", "ghcr.io", "quay.io") {
					p.command("pull", "--quiet", name)
					if got := p.command("image", "inspect", "--format={{.Digest}}", name); got != want.Digest.String() {
						t.Errorf("podman pulled %s as %s, want %s", got, name, want.Digest)
					}
					if got := p.file(name, "data"); !bytes.Equal(got, want.file(t, "data")) {
						t.Errorf("%s has %d other bytes in its file", name, len(got))
					}
				}
			})
		})
	}
}

func TestBuildKitPullsThroughCache(t *testing.T) {
	m := startMirror(t)
	var lines []string
	for name := range m.upstreams {
		lines = append(lines, fmt.Sprintf("[registry.%q]\nmirrors = [%q]", name, m.addr))
	}
	b := startBuildKit(t, m.registry, lines...)
	images := withHost(m.images, "docker.io", "ghcr.io", "quay.io")
	b.write("metadata.json", "{}") // there is none of a build whose output is files
	builds := func(prefix string) {
		for name, want := range images {
			b.write("context/Dockerfile", "FROM "+prefix+name+" AS base\nFROM scratch\nCOPY --from=base /data /copied\n")
			b.build("context", "--output", "type=local,dest="+b.path("local"))
			if got := b.read("local/copied"); !bytes.Equal(got, want.file(t, "data")) {
				t.Errorf("%s has %d other bytes in its file", prefix+name, len(got))
			}
		}
		b.forget()
	}
	m.watch(true, func() { builds("") })
	m.watch(false, func() { builds("") })
	m.watch(false, func() { builds(m.name("")) })
}

// TestCopyingClientsPullThroughCache: clients that know nothing of mirrors say by the
// name whose image they mean.
func TestCopyingClientsPullThroughCache(t *testing.T) {
	skopeo, crane, regctl := tool(t, "skopeo"), tool(t, "crane"), tool(t, "regctl")
	copies := map[string]func(*home, *mirror, string, string){
		"skopeo": func(h *home, _ *mirror, name, dir string) {
			h.run(skopeo, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "docker://"+name, "oci:"+dir+":v1")
		},
		"crane": func(h *home, _ *mirror, name, dir string) {
			h.run(crane, "pull", "--format=oci", name, dir)
			h.run(crane, "validate", "--remote", name)
		},
		"regctl": func(h *home, m *mirror, name, dir string) {
			h.run(regctl, "--host=reg="+m.addr+",tls=disabled", "image", "copy", name, "ocidir://"+dir+":v1")
		},
	}
	for client, pull := range copies {
		t.Run(client, func(t *testing.T) {
			m, h := startMirror(t), newHome(t)
			h.allowUnsigned()
			// Of several platforms all come, and an index stays the same.
			m.images["ghcr.io/o/platforms:v1"] = newPlatforms(t)
			publish(t, m.upstreams["ghcr.io"], "o/platforms", "v1", m.images["ghcr.io/o/platforms:v1"])
			for _, first := range []bool{true, false} {
				m.watch(first, func() {
					for name, want := range withHost(m.images, "docker.io", "ghcr.io", "quay.io") {
						dir := h.path(strings.NewReplacer("/", "-", ":", "-").Replace(fmt.Sprint(name, "-", first)))
						pull(h.in(t), m, m.name(name), dir)
						want.wantLayout(t, dir)
					}
				})
			}
		})
	}
}
