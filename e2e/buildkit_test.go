//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// buildkit is a running daemon and its command line client.
type buildkit struct {
	*home
	buildctl string
}

func TestBuildKitMovesImagesUnchanged(t *testing.T) {
	r := startRegistry(t)
	b := startBuildKit(t, r)
	content := randomBytes(3 << 20)
	b.write("context/data", string(content))
	b.write("context/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY data /data\nLABEL architecture=$TARGETARCH\n")

	t.Run("two platforms, each with an attestation of its provenance", func(t *testing.T) {
		r, b := r.in(t), b.in(t)
		digest := b.build("context", "--opt", "platform=linux/amd64,linux/arm64", "--opt", "attest:provenance=mode=max",
			"--output", "type=image,push=true,oci-mediatypes=true,name="+r.name("buildkit/both:v1"))
		stored := r.image("buildkit/both", "v1")
		if stored.Digest.String() != digest {
			t.Errorf("buildkit pushed %s but the registry has %s", digest, stored.Digest)
		}
		attested := make(map[string]string) // the platform of the image with a digest
		for _, child := range stored.index(t).Manifests {
			if child.Annotations["vnd.docker.reference.type"] == "" {
				attested[child.Digest.String()] = child.Platform.Architecture
				wantBuilt(t, r.image("buildkit/both", child.Digest.String()), child.Platform.Architecture, content)
			}
		}
		if len(attested) != 2 {
			t.Errorf("the index has images %v, want 2", attested)
		}
		for _, child := range stored.index(t).Manifests {
			if child.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
				continue
			}
			attestation := r.image("buildkit/both", child.Digest.String())
			statement := attestation.blobs[attestation.manifest(t).Layers[0].Digest]
			if !bytes.Contains(statement, []byte("https://slsa.dev/provenance/")) {
				t.Errorf("the attestation says %s", statement)
			}
			delete(attested, child.Annotations["vnd.docker.reference.digest"])
		}
		if len(attested) > 0 {
			t.Errorf("nothing is attested of %v", attested)
		}
	})

	t.Run("an image is built from what the registry has", func(t *testing.T) {
		r, b := r.in(t), b.in(t)
		b.forget()
		base := r.name("buildkit/both@" + r.digest("buildkit/both", "v1").String())
		b.write("derived/Dockerfile", "FROM "+base+" AS base\nFROM scratch\nCOPY --from=base /data /copied\n")
		b.build("derived", "--output", "type=local,dest="+b.path("local"))
		if got := b.read("local/copied"); !bytes.Equal(got, content) {
			t.Errorf("buildkit pulled %d bytes, want %d others", len(got), len(content))
		}
	})

	t.Run("a cache in the registry spares a build its work", func(t *testing.T) {
		r, b := r.in(t), b.in(t)
		ref := "type=registry,ref=" + r.name("buildkit/cache:v1")
		b.write("cached/Dockerfile", "FROM scratch AS first\nCOPY data /first\nFROM scratch\nCOPY --from=first /first /second\n")
		b.write("cached/data", string(randomBytes(1<<20)))
		push := []string{"--output", "type=image,push=true,name=" + r.name("buildkit/cached:v1")}
		before := b.build("cached", append(push, "--export-cache", ref+",mode=max")...)
		r.image("buildkit/cache", "v1")

		b.forget()
		after, log := b.buildAndLog("cached", append(push, "--import-cache", ref)...)
		if after != before {
			t.Errorf("built %s, then %s from the cache", before, after)
		}
		if strings.Count(log, " CACHED\n") != 2 {
			t.Errorf("not both steps came from the cache:\n%s", log)
		}
	})
}

// wantBuilt fails the test if an image is not the one of TestBuildKitMovesImagesUnchanged.
func wantBuilt(t *testing.T, i *image, architecture string, content []byte) {
	t.Helper()
	if !bytes.Equal(i.file(t, "data"), content) {
		t.Errorf("%s: the registry has other content", architecture)
	}
	config := decode[imagespec.Image](t, i.blobs[i.manifest(t).Config.Digest])
	if got := config.Config.Labels["architecture"]; got != architecture {
		t.Errorf("the image for %s is labelled %q", architecture, got)
	}
}

// startBuildKit starts a daemon that keeps all it has in a folder, with more lines in its
// configuration.
func startBuildKit(t *testing.T, r *registry, lines ...string) *buildkit {
	t.Helper()
	needRoot(t)
	buildkitd := tool(t, "buildkitd")
	b := &buildkit{home: newHome(t), buildctl: tool(t, "buildctl")}
	socket := "unix://" + b.path("buildkit.sock")
	b.env = append(b.env, "BUILDKIT_HOST="+socket)
	config := b.write("buildkitd.toml", fmt.Sprintf(`root = %q
[grpc]
address = [%q]
[otel]
socketPath = %q
[cdi]
disabled = true
[worker.containerd]
enabled = false
[worker.oci]
enabled = true
binary = %q
networkMode = "host"
[registry.%q]
http = true
%s
`, b.path("root"), socket, b.path("otel.sock"), tool(t, "runc"), r.addr, strings.Join(lines, "\n")))
	b.start(buildkitd, "--config", config).waitUntil(func() error {
		_, stderr, err := b.try(b.buildctl, "debug", "workers")
		if err != nil {
			return fmt.Errorf("%w: %s", err, stderr)
		}
		return nil
	})
	return b
}

// in returns the same daemon for a part of the test.
func (b *buildkit) in(t *testing.T) *buildkit {
	return &buildkit{home: b.home.in(t), buildctl: b.buildctl}
}

// build builds the Dockerfile of a folder and returns the digest of what that made.
func (b *buildkit) build(dir string, flags ...string) string {
	b.t.Helper()
	digest, _ := b.buildAndLog(dir, flags...)
	return digest
}

func (b *buildkit) buildAndLog(dir string, flags ...string) (digest, log string) {
	b.t.Helper()
	args := []string{"build", "--progress=plain", "--frontend=dockerfile.v0", "--metadata-file=metadata.json",
		"--local=context=" + b.path(dir), "--local=dockerfile=" + b.path(dir)}
	args = append(args, flags...)
	_, log, err := b.try(b.buildctl, args...)
	if err != nil {
		b.t.Fatalf("buildctl %s: %v\n%s", strings.Join(args, " "), err, log)
	}
	metadata := decode[struct {
		Digest string `json:"containerimage.digest"`
	}](b.t, b.read("metadata.json"))
	return metadata.Digest, log
}

// forget removes all that was built or pulled, and checks that.
func (b *buildkit) forget() {
	b.t.Helper()
	b.run(b.buildctl, "prune", "--all")
	if left := b.run(b.buildctl, "du", "--format={{json .}}"); left != "[]" && left != "null" {
		b.t.Fatalf("buildkit still has %s", left)
	}
}
