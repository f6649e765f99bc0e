//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// docker is a running daemon and its command line client.
type docker struct {
	*home
	cli string
}

func TestDockerMovesImagesUnchanged(t *testing.T) {
	r := startRegistry(t)
	d := startDocker(t, r)

	t.Run("what it pushed comes back as it was", func(t *testing.T) {
		r, d := r.in(t), d.in(t)
		content := randomBytes(3 << 20)
		rootfs := d.write("rootfs.tar", string(newTar(t, map[string][]byte{"data": content})))
		name := r.name("docker/imported:v1")
		id := d.command("import", rootfs, name)
		digest := pushedDigest(t, d.command("push", name))
		stored := r.image("docker/imported", "v1")
		if stored.Digest.String() != digest {
			t.Errorf("docker pushed %s but the registry has %s", digest, stored.Digest)
		}
		if got := stored.manifest(t).Config.Digest.String(); got != id {
			t.Errorf("the configuration is %s, want %s", got, id)
		}
		if !bytes.Equal(stored.file(t, "data"), content) {
			t.Error("the registry has other content")
		}

		d.forget(name)
		d.command("pull", name)
		if got := d.command("image", "inspect", "--format", "{{.Id}} {{index .RepoDigests 0}}", name); got != id+" "+r.name("docker/imported@"+digest) {
			t.Errorf("docker pulled %s, want %s %s", got, id, digest)
		}
		if got := d.file(name, "data"); !bytes.Equal(got, content) {
			t.Errorf("docker pulled %d bytes, want %d others", len(got), len(content))
		}
		d.forget(name)
	})

	t.Run("it pulls its platform of an OCI index", func(t *testing.T) {
		r, d := r.in(t), d.in(t)
		crane := tool(t, "crane")
		content := randomBytes(1 << 20)
		other := newImage(t, "s390x", map[string][]byte{"data": randomBytes(10)})
		own := newImage(t, runtime.GOARCH, map[string][]byte{"data": content})
		index := newIndex(t, other, own)
		index.writeLayout(t, d.path("layout"), "v1")
		name := r.name("docker/index@" + index.Digest.String())
		d.run(crane, "push", d.path("layout"), r.name("docker/index:v1"))
		d.command("pull", name)
		if got, want := d.command("image", "inspect", "--format", "{{.Id}}", name), own.manifest(t).Config.Digest.String(); got != want {
			t.Errorf("docker pulled %s, want %s", got, want)
		}
		if got := d.file(name, "data"); !bytes.Equal(got, content) {
			t.Errorf("docker pulled %d bytes, want %d others", len(got), len(content))
		}
		d.forget(name)
	})

	t.Run("a layer of another repository is mounted", func(t *testing.T) {
		r, d := r.in(t), d.in(t)
		from, to := r.name("docker/imported:v1"), r.name("docker/mounted:v1")
		d.command("pull", from)
		d.command("tag", from, to)
		output := d.command("push", to)
		if !strings.Contains(output, "Mounted from docker/imported") {
			t.Errorf("docker did not mount the layer: %s", output)
		}
		r.image("docker/imported", "v1").wantSame(t, r.image("docker/mounted", "v1"))
	})
}

// startDocker starts a daemon that touches no network and keeps all it has in a folder.
// What it pulls of Docker Hub it asks the mirrors for first.
func startDocker(t *testing.T, r *registry, mirrors ...string) *docker {
	t.Helper()
	return startDockerWith(t, map[string]any{
		"insecure-registries": []string{r.addr},
		"registry-mirrors":    mirrors,
	})
}

// startDockerWith starts a daemon that has a configuration besides what keeps it to itself.
func startDockerWith(t *testing.T, config map[string]any) *docker {
	t.Helper()
	needRoot(t)
	dockerd := tool(t, "dockerd")
	// With its own containerd, it would take the system's if there is one.
	c := startContainerd1(t)
	h := newHome(t)
	socket := "unix://" + h.path("docker.sock")
	maps.Copy(config, map[string]any{
		"data-root":  h.path("data"),
		"exec-root":  h.path("exec"),
		"pidfile":    h.path("docker.pid"),
		"hosts":      []string{socket},
		"containerd": c.socket,
		"iptables":   false,
		"ip6tables":  false,
		"bridge":     "none",
	})
	d := &docker{home: h, cli: tool(t, "docker")}
	d.env = append(d.env, "DOCKER_HOST="+socket)
	d.start(dockerd, "--config-file", h.write("daemon.json", string(encode(t, config)))).waitUntil(func() error {
		_, stderr, err := d.try(d.cli, "version")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		return nil
	})
	t.Log(d.run(dockerd, "--version"))
	return d
}

// in returns the same daemon for a part of the test.
func (d *docker) in(t *testing.T) *docker { return &docker{home: d.home.in(t), cli: d.cli} }

func (d *docker) command(args ...string) string {
	d.t.Helper()
	return d.run(d.cli, args...)
}

// forget removes an image and checks that none is left, since what docker has it does
// not pull.
func (d *docker) forget(name string) {
	d.t.Helper()
	d.command("rmi", "--force", name)
	if left := d.command("images", "--all", "--quiet"); left != "" {
		d.t.Fatalf("docker still has %s", left)
	}
}

// file returns a file of an image.
func (d *docker) file(image, name string) []byte {
	d.t.Helper()
	container := d.command("create", image, "/none")
	defer d.command("rm", container)
	d.command("cp", container+":/"+name, d.path("copied"))
	return d.read("copied")
}

// runs runs an image from the registry.
func (d *docker) runs(r *registry) {
	d.t.Helper()
	greeting := pushRunnable(d.home, r, "run/docker:v1")
	got := d.command("run", "--rm", "--network=none", r.name("run/docker:v1"))
	if want := "hello, " + greeting; got != want {
		d.t.Errorf("the container said %q, want %q", got, want)
	}
}

var digestInOutput = regexp.MustCompile(`digest: (sha256:[0-9a-f]{64}) size: `)

// pushedDigest returns what docker says it has pushed.
func pushedDigest(t *testing.T, output string) string {
	t.Helper()
	match := digestInOutput.FindStringSubmatch(output)
	if match == nil {
		t.Fatalf("docker told no digest: %s", output)
	}
	return match[1]
}
