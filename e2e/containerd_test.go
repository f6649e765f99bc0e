//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fetchBuffer is how much of a layer containerd 2 fetches with one request.
const fetchBuffer = 1 << 20

// containerd is a running daemon and its command line client.
type containerd struct {
	*home
	ctr    string
	socket string
}

func TestContainerd1MovesImagesUnchanged(t *testing.T) {
	r := startRegistry(t)
	startContainerd1(t).movesEveryPlatform(r, "--plain-http")
}

func TestContainerd2MovesImagesUnchanged(t *testing.T) {
	r := startRegistry(t)
	c := startContainerd2(t, r)
	t.Run("by the transfer service, with parallel ranges", func(t *testing.T) {
		c.in(t).movesEveryPlatform(r.in(t), "--hosts-dir", c.path("certs.d"))
	})
	t.Run("by the client", func(t *testing.T) {
		c.in(t).movesEveryPlatform(r.in(t), "--local", "--hosts-dir", c.path("certs.d"))
	})
	r.waitUntilLogged(fmt.Sprintf(`"Range":["bytes=%d-"]`, fetchBuffer)) // a second part was asked for
}

// in returns the same daemon for a part of the test.
func (c *containerd) in(t *testing.T) *containerd {
	return &containerd{home: c.home.in(t), ctr: c.ctr, socket: c.socket}
}

// startContainerd1 starts Debian's containerd, without what serves Kubernetes.
func startContainerd1(t *testing.T) *containerd {
	t.Helper()
	needRoot(t)
	h := newHome(t)
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = %q
[plugins."io.containerd.internal.v1.opt"]
path = %q
`, h.path("root"), h.path("state"), h.path("c.sock"), h.path("opt"))
	return startContainerd(h, tool(t, "containerd"), tool(t, "ctr"), config)
}

// startContainerd2 starts the containerd that setup.sh builds, so configured that it
// fetches layers in parts.
func startContainerd2(t *testing.T, r *registry) *containerd {
	t.Helper()
	needRoot(t)
	h := newHome(t)
	binary, ctr := tool(t, "containerd2/containerd"), tool(t, "containerd2/ctr")
	// It is to find its own shim, before the one of Debian's containerd.
	h.env = append(h.env, "PATH="+filepath.Dir(binary)+":"+toolPath())
	h.write("certs.d/"+r.addr+"/hosts.toml", fmt.Sprintf(`server = "http://%s"
[host."http://%s"]
capabilities = ["pull", "resolve", "push"]
`, r.addr, r.addr))
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = %q
[plugins."io.containerd.internal.v1.opt"]
path = %q
[plugins."io.containerd.transfer.v1.local"]
config_path = %q
concurrent_layer_fetch_buffer = %d
`, h.path("root"), h.path("state"), h.path("c.sock"), h.path("opt"), h.path("certs.d"), fetchBuffer)
	return startContainerd(h, binary, ctr, config)
}

func startContainerd(h *home, binary, ctr, config string) *containerd {
	h.t.Helper()
	c := &containerd{home: h, ctr: ctr, socket: h.path("c.sock")}
	d := h.start(binary, "--config", h.write("containerd.toml", config))
	d.waitUntil(func() error {
		_, stderr, err := h.try(ctr, c.args("version")...)
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		return nil
	})
	h.t.Log(h.run(binary, "--version"))
	return c
}

func (c *containerd) args(args ...string) []string {
	return append([]string{"--address", c.socket, "--namespace", "e2e"}, args...)
}

// command runs ctr, with flags and then args after the words of the command.
func (c *containerd) command(words string, flags []string, args ...string) string {
	c.t.Helper()
	return c.run(c.ctr, append(append(c.args(strings.Fields(words)...), flags...), args...)...)
}

// forget removes an image and checks that none of its content is left, since what
// containerd has it does not pull.
func (c *containerd) forget(name string) {
	c.t.Helper()
	c.command("images rm --sync", nil, name)
	if left := c.command("content ls --quiet", nil); left != "" {
		c.t.Fatalf("containerd still has %s", left)
	}
}

// movesEveryPlatform pushes an image for two platforms and pulls it back.
func (c *containerd) movesEveryPlatform(r *registry, flags ...string) {
	c.t.Helper()
	// Containerd 2 fetches the large layer in many parts at once.
	large := map[string][]byte{"large": randomBytes(20 * fetchBuffer)}
	pushed := newIndex(c.t, newImage(c.t, "amd64", large), newImage(c.t, "arm64", large, map[string][]byte{"small": randomBytes(10)}))
	name := r.name("containerd/platforms:v1")
	archive := c.write("pushed.tar", string(newTar(c.t, pushed.layout(c.t, name))))
	c.command("images import --all-platforms --no-unpack", nil, archive)
	c.command("images push", flags, name)
	pushed.wantSame(c.t, r.image("containerd/platforms", "v1"))

	c.forget(name)
	c.command("images pull --all-platforms", flags, name)
	c.wantContent(pushed)
	images := strings.Fields(c.command("images ls", nil, "name=="+name))
	if !slices.Contains(images, pushed.Digest.String()) {
		c.t.Errorf("containerd has pulled %s, want %s", images, pushed.Digest)
	}
	c.forget(name)
}

// wantContent fails the test for whatever of an image containerd has not, byte for byte.
func (c *containerd) wantContent(i *image) {
	c.t.Helper()
	for digest, content := range i.blobs {
		stored, err := os.ReadFile(c.path("root/io.containerd.content.v1.content/" + blobFile(digest)))
		if err != nil || !bytes.Equal(stored, content) {
			c.t.Errorf("containerd has %d bytes of %s (%v), want %d", len(stored), digest, err, len(content))
		}
	}
}

// runs runs an image from the registry.
func (c *containerd) runs(r *registry, flags ...string) {
	c.t.Helper()
	greeting := pushRunnable(c.home, r, "run/containerd:v1")
	name := r.name("run/containerd:v1")
	c.command("images pull", flags, name)
	got := c.command("run --rm", []string{"--fifo-dir", c.path("fifo")}, name, "hello")
	if want := "hello, " + greeting; got != want {
		c.t.Errorf("the container said %q, want %q", got, want)
	}
	c.forget(name)
}
