//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// startGuardedMirror starts a mirror that asks everybody who it is, though anonymous may
// read.
func startGuardedMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{upstreams: make(map[string]*upstreamtest.Registry), images: make(map[string]*image)}
	lines := []string{"default docker.io", "local_hosts " + ownName}
	for _, name := range []string{"docker.io", "ghcr.io", "quay.io"} {
		m.upstreams[name] = upstreamtest.Start(t)
		lines = append(lines, cached(name, m.upstreams[name].URL()))
		m.add(t, name, "o/x")
	}
	m.add(t, "docker.io", "library/debian")
	g := newGuarded(t)
	g.start(cacheOf(lines...)) // without its identity provider, which nobody needs here
	m.registry = g.registry
	own := fileImage(t)
	crane, h := tool(t, "crane"), newHome(t)
	own.writeLayout(t, h.path("own"), "v1")
	h.runWithSecret(g.madeKey("alice", "admins"), crane, "auth", "login", g.addr, "--username=alice", "--password-stdin")
	h.run(crane, "push", h.path("own"), g.name("o/x:v1"))
	m.images[ownName+"/o/x:v1"] = own
	return m
}

// TestClientsPullThroughAGuardedMirrorWithoutLogin as their usual configuration for
// mirrors has it, which has no place for a login.
func TestClientsPullThroughAGuardedMirrorWithoutLogin(t *testing.T) {
	m := startGuardedMirror(t)
	t.Run("containerd 1", func(t *testing.T) {
		m, c := m.in(t), startContainerd1(t)
		c.pulls(m.images, "--hosts-dir", m.hostsFiles(c, "ns"))
		c.pulls(withHost(m.images, "docker.io", "ghcr.io", "quay.io"), "--hosts-dir", m.overridingHostsFiles(c, "path"))
	})
	t.Run("containerd 2", func(t *testing.T) {
		m, c := m.in(t), startContainerd2(t, m.registry)
		hosts := m.hostsFiles(c, "ns")
		c.pulls(m.images, "--hosts-dir", hosts)
		c.pulls(m.images, "--local", "--hosts-dir", hosts)
	})
	t.Run("docker", func(t *testing.T) {
		m, d := m.in(t), startDocker(t, m.registry, "http://"+m.addr)
		d.command("pull", "debian:v1")
		if got, want := d.file("debian:v1", "data"), m.images["docker.io/library/debian:v1"].file(t, "data"); !bytes.Equal(got, want) {
			t.Errorf("docker pulled %d bytes, want %d others", len(got), len(want))
		}
	})
	t.Run("podman", func(t *testing.T) {
		m, p := m.in(t), newPodman(t)
		var lines strings.Builder
		for name := range m.upstreams {
			fmt.Fprintf(&lines, "[[registry]]\nlocation = \"%[1]s\"\n[[registry.mirror]]\nlocation = \"%[2]s/%[1]s\"\ninsecure = true\n", name, m.addr)
		}
		p.write("registries.conf", lines.String())
		for name, want := range withHost(m.images, "docker.io", "ghcr.io", "quay.io") {
			p.command("pull", "--quiet", name)
			if got := p.command("image", "inspect", "--format={{.Digest}}", name); got != want.Digest.String() {
				t.Errorf("podman pulled %s as %s, want %s", got, name, want.Digest)
			}
		}
	})
	t.Run("buildkit", func(t *testing.T) {
		m := m.in(t)
		var lines []string
		for name := range m.upstreams {
			lines = append(lines, fmt.Sprintf("[registry.%q]\nmirrors = [%q]", name, m.addr))
		}
		b := startBuildKit(t, m.registry, lines...)
		b.write("metadata.json", "{}") // there is none of a build whose output is files
		for name, want := range withHost(m.images, "docker.io", "ghcr.io", "quay.io") {
			b.write("context/Dockerfile", "FROM "+name+" AS base\nFROM scratch\nCOPY --from=base /data /copied\n")
			b.build("context", "--output", "type=local,dest="+b.path("local"))
			if got := b.read("local/copied"); !bytes.Equal(got, want.file(t, "data")) {
				t.Errorf("%s has %d other bytes in its file", name, len(got))
			}
		}
	})
}
