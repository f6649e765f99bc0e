//go:build e2e

package e2e

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestOrasMovesFilesUnchanged(t *testing.T) {
	oras := tool(t, "oras")
	r, h := startRegistry(t), newHome(t)

	t.Run("files come back as they were", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		files := map[string]string{
			"files/random":    string(randomBytes(5 << 20)),
			"files/empty":     "",
			"files/text.yaml": newGreeting(),
		}
		push := []string{"push", "--plain-http", "--artifact-type", "application/example.files", r.name("oras/files:v1,latest")}
		for name, content := range files {
			h.write(name, content)
			push = append(push, name)
		}
		h.run(oras, push...)
		if v1, latest := r.digest("oras/files", "v1"), r.digest("oras/files", "latest"); v1 != latest {
			t.Errorf("v1 is %s, latest %s", v1, latest)
		}
		h.run(oras, "pull", "--plain-http", "--output", "pulled", r.name("oras/files:v1"))
		for name, want := range files {
			if got := h.read("pulled/" + name); string(got) != want {
				t.Errorf("%s: pulled %d bytes, want %d others", name, len(got), len(want))
			}
		}
	})

	t.Run("what is attached is found through the referrers API", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		want := newGreeting()
		h.write("attached.txt", want)
		h.run(oras, "attach", "--plain-http", "--distribution-spec", "v1.1-referrers-api",
			"--artifact-type", "application/example.note", r.name("oras/files:v1"), "attached.txt")
		h.run(oras, "attach", "--plain-http", "--distribution-spec", "v1.1-referrers-api",
			"--artifact-type", "application/example.other", "--annotation", "a=b", r.name("oras/files:v1"))
		subject := r.digest("oras/files", "v1")
		if got := r.referrers("oras/files", subject); len(got) != 2 {
			t.Errorf("%s has referrers %v, want 2", subject, got)
		}
		found := decode[struct{ Referrers []struct{ Digest string } }](t, []byte(h.run(oras, "discover", "--plain-http", "--format", "json",
			"--distribution-spec", "v1.1-referrers-api", "--artifact-type", "application/example.note", r.name("oras/files:v1"))))
		if len(found.Referrers) != 1 {
			t.Fatalf("discovered %v, want the note", found.Referrers)
		}
		h.run(oras, "pull", "--plain-http", "--output", "pulled", r.name("oras/files@"+found.Referrers[0].Digest))
		if got := h.read("pulled/attached.txt"); string(got) != want {
			t.Errorf("pulled %q, want %q", got, want)
		}
	})

	t.Run("a layout with two platforms comes back as it was", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		pushed := newPlatforms(t)
		pushed.writeLayout(t, h.path("pushed"), "v1")
		h.run(oras, "cp", "--from-oci-layout", "--to-plain-http", h.path("pushed")+":v1", r.name("oras/layout:v1"))
		pushed.wantSame(t, r.image("oras/layout", "v1"))
		h.run(oras, "cp", "--to-oci-layout", "--from-plain-http", r.name("oras/layout:v1"), h.path("copied")+":v1")
		pushed.wantSame(t, readLayout(t, os.DirFS(h.path("copied"))))
	})

	t.Run("a blob comes back as it was and can be deleted", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		want := randomBytes(1 << 20)
		h.write("blob", string(want))
		pushed := decode[struct{ Digest string }](t, []byte(h.run(oras, "blob", "push", "--plain-http", "--descriptor", r.name("oras/blobs"), "blob")))
		h.run(oras, "blob", "fetch", "--plain-http", "--output", "fetched", r.name("oras/blobs@"+pushed.Digest))
		if got := h.read("fetched"); !bytes.Equal(got, want) {
			t.Errorf("fetched %d bytes, want %d others", len(got), len(want))
		}
		h.run(oras, "blob", "delete", "--plain-http", "--force", r.name("oras/blobs@"+pushed.Digest))
		if status, _, _ := r.do(http.MethodHead, "/v2/oras/blobs/blobs/"+pushed.Digest); status != http.StatusNotFound {
			t.Errorf("the deleted blob answers %d", status)
		}
	})
}

func TestHelmMovesChartsUnchanged(t *testing.T) {
	helm := tool(t, "helm")
	r, h := startRegistry(t), newHome(t)

	note := newGreeting()
	h.write("chart/Chart.yaml", "apiVersion: v2\nname: example\nversion: 1.2.3+build.4\ndescription: "+note+"\n")
	h.write("chart/values.yaml", "replicas: 1\n")
	h.write("chart/templates/config.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  replicas: {{ .Values.replicas | quote }}\n")
	h.run(helm, "package", "chart")
	pushed := h.read("example-1.2.3+build.4.tgz")
	h.run(helm, "push", "--plain-http", "example-1.2.3+build.4.tgz", "oci://"+r.name("charts"))

	// A tag has no plus sign: helm makes it an underscore.
	stored := r.image("charts/example", "1.2.3_build.4")
	layers := stored.manifest(t).Layers
	if len(layers) != 1 || !bytes.Equal(stored.blobs[layers[0].Digest], pushed) {
		t.Errorf("the chart's layers are %v, want the package of %d bytes", layers, len(pushed))
	}
	h.mkdir("pulled")
	h.run(helm, "pull", "--plain-http", "--version", "1.2.3+build.4", "--destination", "pulled", "oci://"+r.name("charts/example"))
	if got := h.read("pulled/example-1.2.3+build.4.tgz"); !bytes.Equal(got, pushed) {
		t.Errorf("pulled %d bytes, want %d others", len(got), len(pushed))
	}
	if got := h.run(helm, "show", "chart", "--plain-http", "--version", "1.2.x", "oci://"+r.name("charts/example")); !strings.Contains(got, note) {
		t.Errorf("a range of versions finds %s", got)
	}
	got := h.run(helm, "template", "--plain-http", "--set", "replicas=7", "release", "oci://"+r.name("charts/example@"+stored.Digest.String()))
	if !strings.Contains(got, `replicas: "7"`) {
		t.Errorf("the chart pulled by digest renders %s", got)
	}
}

func TestCosignSignsAndVerifies(t *testing.T) {
	cosign, crane := tool(t, "cosign"), tool(t, "crane")
	r, h := startRegistry(t), newHome(t)
	h.env = append(h.env, "COSIGN_PASSWORD=")
	h.run(cosign, "generate-key-pair")
	h.run(cosign, "generate-key-pair", "--output-key-prefix", "other")

	push := func(h *home, name string) *image {
		h.t.Helper()
		i := newImage(h.t, "amd64", map[string][]byte{"data": randomBytes(1000)})
		i.writeLayout(h.t, h.path(name), "v1")
		h.run(crane, "push", h.path(name), r.name(name+":v1"))
		return i
	}
	sign := func(h *home, name string, signed *image, flags ...string) {
		h.t.Helper()
		h.run(cosign, append(flags, "sign", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false",
			"--allow-http-registry", r.name(name+"@"+signed.Digest.String()))...)
	}
	verify := func(key, name string, flags ...string) []string {
		return append(flags, "verify", "--key", key, "--insecure-ignore-tlog", "--allow-http-registry", r.name(name+":v1"))
	}

	t.Run("with a bundle that refers to the image", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		signed := push(h, "bundle")
		h.mustFail("no signatures found", cosign, verify("cosign.pub", "bundle")...)
		sign(h, "bundle", signed)
		referrers := r.referrers("bundle", signed.Digest)
		if len(referrers) != 1 || !strings.Contains(referrers[0].ArtifactType, "sigstore.bundle") {
			t.Errorf("referrers are %v, want one bundle", referrers)
		}
		if got := h.run(cosign, verify("cosign.pub", "bundle")...); !strings.Contains(got, signed.Digest.String()) {
			t.Errorf("verified %s, want %s", got, signed.Digest)
		}
		h.mustFail("could not verify envelope", cosign, verify("other.pub", "bundle")...)
		signed.wantSame(t, r.image("bundle", "v1"))
	})

	t.Run("with a tag beside the image", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		signed := push(h, "tag")
		h.mustFail("no signatures found", cosign, verify("cosign.pub", "tag", "--new-bundle-format=false")...)
		sign(h, "tag", signed, "--new-bundle-format=false")
		signature := r.image("tag", signed.Digest.Algorithm().String()+"-"+signed.Digest.Encoded()+".sig")
		if layers := signature.manifest(t).Layers; len(layers) != 1 || !bytes.Contains(signature.blobs[layers[0].Digest], []byte(signed.Digest)) {
			t.Errorf("the signature's layers are %v, want one for %s", layers, signed.Digest)
		}
		if got := h.run(cosign, verify("cosign.pub", "tag", "--new-bundle-format=false")...); !strings.Contains(got, signed.Digest.String()) {
			t.Errorf("verified %s, want %s", got, signed.Digest)
		}
		h.mustFail("no matching signatures", cosign, verify("other.pub", "tag", "--new-bundle-format=false")...)
		signed.wantSame(t, r.image("tag", "v1"))
	})
}
