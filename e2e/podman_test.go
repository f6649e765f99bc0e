//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// podman is podman, or buildah, with storage of its own. It has no daemon.
type podman struct {
	*home
	binary string
}

func TestPodmanMovesImagesUnchanged(t *testing.T) {
	r, p := startRegistry(t), newPodman(t)
	content := randomBytes(3 << 20)
	rootfs := p.write("rootfs.tar", string(newTar(t, map[string][]byte{"data": content})))
	name := r.name("podman/imported:v1")
	id := p.command("import", "--quiet", "--change", "CMD=/data", rootfs, name)

	for _, format := range []string{"oci", "v2s2"} {
		t.Run("pushed as "+format, func(t *testing.T) {
			r, p := r.in(t), p.in(t)
			name := r.name("podman/" + format + ":v1")
			p.command("push", "--tls-verify=false", "--format="+format, "--digestfile=digest", id, name)
			stored := r.image("podman/"+format, "v1")
			if got := string(p.read("digest")); got != stored.Digest.String() {
				t.Errorf("podman pushed %s but the registry has %s", got, stored.Digest)
			}
			if !bytes.Equal(stored.file(t, "data"), content) {
				t.Error("the registry has other content")
			}

			// In storage without it, what was pushed has to be pulled.
			fresh := newPodman(t)
			fresh.command("pull", "--quiet", "--tls-verify=false", name)
			if got := fresh.command("image", "inspect", "--format={{.Digest}}", name); got != stored.Digest.String() {
				t.Errorf("podman pulled %s, want %s", got, stored.Digest)
			}
			if got := fresh.file(name, "data"); !bytes.Equal(got, content) {
				t.Errorf("podman pulled %d bytes, want %d others", len(got), len(content))
			}
		})
	}

	t.Run("by digest, which no tag has any more", func(t *testing.T) {
		r, p := r.in(t), newPodman(t)
		digest := r.digest("podman/oci", "v1")
		p.run(tool(t, "crane"), "copy", r.name("podman/v2s2:v1"), r.name("podman/oci:v1"))
		if now := r.digest("podman/oci", "v1"); now == digest {
			t.Fatalf("the tag still is %s", now)
		}
		p.command("pull", "--quiet", "--tls-verify=false", r.name("podman/oci@"+digest.String()))
		if got := p.file(r.name("podman/oci@"+digest.String()), "data"); !bytes.Equal(got, content) {
			t.Errorf("podman pulled %d bytes, want %d others", len(got), len(content))
		}
	})
}

func TestBuildahMovesImagesUnchanged(t *testing.T) {
	r, b := startRegistry(t), newBuildah(t)
	content := randomBytes(2 << 20)
	b.write("context/data", string(content))
	b.write("context/Containerfile", "FROM scratch\nARG TARGETARCH\nCOPY data /data\nLABEL architecture=$TARGETARCH\n")
	b.command("build", "--platform=linux/amd64,linux/arm64", "--manifest=both", b.path("context"))
	b.command("manifest", "push", "--all", "--tls-verify=false", "--digestfile=digest", "both", "docker://"+r.name("buildah/both:v1"))

	stored := r.image("buildah/both", "v1")
	if got := string(b.read("digest")); got != stored.Digest.String() {
		t.Errorf("buildah pushed %s but the registry has %s", got, stored.Digest)
	}
	children := stored.index(t).Manifests
	if len(children) != 2 {
		t.Fatalf("the index has %d images, want 2", len(children))
	}
	for _, child := range children {
		i := r.image("buildah/both", child.Digest.String())
		if !bytes.Equal(i.file(t, "data"), content) {
			t.Errorf("%s: the registry has other content", child.Platform.Architecture)
		}
		config := decode[imagespec.Image](t, i.blobs[i.manifest(t).Config.Digest])
		if got, want := config.Config.Labels["architecture"], child.Platform.Architecture; got != want {
			t.Errorf("the image for %s is labelled %q", want, got)
		}
		// In storage without it, what was pushed has to be pulled.
		fresh := newBuildah(t)
		name := r.name("buildah/both:v1")
		id := fresh.command("pull", "--quiet", "--tls-verify=false", "--arch="+child.Platform.Architecture, name)
		if want := i.manifest(t).Config.Digest.Encoded(); id != want {
			t.Errorf("buildah pulled %s for %s, want %s", id, child.Platform.Architecture, want)
		}
		container := fresh.command("from", "--pull=false", id)
		got, err := os.ReadFile(fresh.command("mount", container) + "/data")
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("buildah pulled %d bytes (%v), want %d others", len(got), err, len(content))
		}
		fresh.command("rm", container)
	}
}

func newPodman(t *testing.T) *podman {
	t.Helper()
	return newContainersTool(t, "podman")
}

func newBuildah(t *testing.T) *podman {
	t.Helper()
	return newContainersTool(t, "buildah")
}

// newContainersTool returns podman or buildah with empty storage.
func newContainersTool(t *testing.T, name string) *podman {
	t.Helper()
	needRoot(t)
	p := &podman{binary: tool(t, name), home: newHome(t)}
	p.allowUnsigned()
	storage := p.write("storage.conf", fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = %q\nrunroot = %q\n", p.path("storage"), p.path("runroot")))
	config := p.write("containers.conf", fmt.Sprintf(`[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = %q
static_dir = %q
volume_path = %q
[network]
network_config_dir = %q
`, p.path("libpod"), p.path("storage/libpod"), p.path("volumes"), p.path("networks")))
	p.env = append(p.env, "CONTAINERS_STORAGE_CONF="+storage, "CONTAINERS_CONF="+config)
	return p
}

// in returns the same client for a part of the test.
func (p *podman) in(t *testing.T) *podman { return &podman{home: p.home.in(t), binary: p.binary} }

func (p *podman) command(args ...string) string {
	p.t.Helper()
	return p.run(p.binary, args...)
}

// file returns a file of an image.
func (p *podman) file(image, name string) []byte {
	p.t.Helper()
	container := p.command("create", "--network=none", image, "/none")
	defer p.command("rm", container)
	p.command("cp", container+":/"+name, p.path("copied"))
	return p.read("copied")
}

// runs runs an image from the registry.
func (p *podman) runs(r *registry) {
	p.t.Helper()
	greeting := pushRunnable(p.home, r, "run/podman:v1")
	// Podman's own limits are higher than root may set them on some machines.
	got := p.command("run", "--rm", "--network=none", "--ulimit=nofile=64:64", "--ulimit=nproc=64:64", "--quiet",
		"--tls-verify=false", r.name("run/podman:v1"))
	if want := "hello, " + greeting; got != want {
		p.t.Errorf("the container said %q, want %q", got, want)
	}
}
