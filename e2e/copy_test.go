//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestCraneMovesImagesUnchanged(t *testing.T) {
	crane := tool(t, "crane")
	r, h := startRegistry(t), newHome(t)

	t.Run("a layout with two platforms comes back as it was", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		pushed := newPlatforms(t)
		pushed.writeLayout(t, h.path("pushed"), "v1")
		h.run(crane, "push", h.path("pushed"), r.name("crane/layout:v1"))
		pushed.wantSame(t, r.image("crane/layout", "v1"))

		h.run(crane, "pull", "--format=oci", r.name("crane/layout:v1"), h.path("pulled"))
		pushed.wantSame(t, readLayout(t, os.DirFS(h.path("pulled"))))
		h.run(crane, "validate", "--remote", r.name("crane/layout:v1"))
	})

	t.Run("images with Docker's media types are put together in the registry", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		layer := map[string][]byte{"data": randomBytes(2 << 20)}
		h.write("layer.tar", string(newTar(t, layer)))
		base := h.run(crane, "append", "--new_layer", h.path("layer.tar"), "--new_tag", r.name("crane/base:v1"))
		labelled := h.run(crane, "mutate", base, "--label", "color=red", "--tag", r.name("crane/base:red"))
		if base == labelled {
			t.Errorf("both images are %s", base)
		}
		h.run(crane, "index", "append", "--docker-empty-base", "--manifest", base, "--manifest", labelled, "--tag", r.name("crane/base:both"))

		both := r.image("crane/base", "both")
		if both.MediaType != indexTypes[1] {
			t.Errorf("the index is served as %s", both.MediaType)
		}
		var children []string
		for _, child := range both.index(t).Manifests {
			children = append(children, r.name("crane/base@"+child.Digest.String()))
		}
		if want := []string{base, labelled}; !slices.Equal(children, want) {
			t.Errorf("the index has %s, want %s", children, want)
		}
		got := readTar(t, []byte(h.run(crane, "export", labelled, "-")))
		if !slices.Equal(got["data"], layer["data"]) {
			t.Errorf("exported %d bytes are not the %d pushed ones", len(got["data"]), len(layer["data"]))
		}
		if config := h.run(crane, "config", labelled); !strings.Contains(config, `"color":"red"`) {
			t.Errorf("the pushed label is not in %s", config)
		}
	})

	t.Run("a copy in another repository is the same and outlives the original", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		original := r.image("crane/layout", "v1")
		h.run(crane, "copy", r.name("crane/layout:v1"), r.name("crane/copy:v2"))
		h.run(crane, "delete", r.name("crane/layout@"+original.Digest.String()))
		original.wantSame(t, r.image("crane/copy", "v2"))
		h.mustFail("MANIFEST_UNKNOWN", crane, "digest", r.name("crane/layout:v1"))
	})

	t.Run("tags and repositories are listed", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		if got, want := strings.Fields(h.run(crane, "ls", r.name("crane/base"))), []string{"both", "red", "v1"}; !slices.Equal(got, want) {
			t.Errorf("tags are %s, want %s", got, want)
		}
		got := strings.Fields(h.run(crane, "catalog", r.addr))
		for _, want := range []string{"crane/base", "crane/copy"} {
			if !slices.Contains(got, want) {
				t.Errorf("repositories are %s, want %s too", got, want)
			}
		}
	})
}

func TestSkopeoMovesImagesUnchanged(t *testing.T) {
	skopeo := tool(t, "skopeo")
	r, h := startRegistry(t), newHome(t)
	h.allowUnsigned()
	copyAll := func(h *home, from, to string) {
		h.t.Helper()
		h.run(skopeo, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", from, to)
	}

	t.Run("a layout with two platforms comes back as it was", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		pushed := newPlatforms(t)
		pushed.writeLayout(t, h.path("pushed"), "v1")
		copyAll(h, "oci:"+h.path("pushed")+":v1", "docker://"+r.name("skopeo/layout:v1"))
		pushed.wantSame(t, r.image("skopeo/layout", "v1"))

		copyAll(h, "docker://"+r.name("skopeo/layout:v1"), "oci:"+h.path("pulled")+":v1")
		pushed.wantSame(t, readLayout(t, os.DirFS(h.path("pulled"))))
		raw := h.run(skopeo, "inspect", "--raw", "--tls-verify=false", "docker://"+r.name("skopeo/layout@"+pushed.Digest.String()))
		if raw != string(pushed.blobs[pushed.Digest]) {
			t.Errorf("inspected %s, pushed %s", raw, pushed.blobs[pushed.Digest])
		}
	})

	t.Run("an image converted to schema 2 keeps its layers", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		pushed := newImage(t, "amd64", map[string][]byte{"data": randomBytes(1 << 20)})
		pushed.writeLayout(t, h.path("converted"), "v1")
		h.run(skopeo, "copy", "--format=v2s2", "--dest-tls-verify=false", "oci:"+h.path("converted")+":v1", "docker://"+r.name("skopeo/v2s2:v1"))
		stored := r.image("skopeo/v2s2", "v1")
		if stored.MediaType != manifestTypes[1] {
			t.Errorf("the manifest is served as %s", stored.MediaType)
		}
		if got, want := stored.manifest(t).Layers[0].Digest, pushed.manifest(t).Layers[0].Digest; got != want {
			t.Errorf("the layer is %s, want %s", got, want)
		}
		copyAll(h, "docker://"+r.name("skopeo/v2s2:v1"), "dir:"+h.mkdir("dir"))
		if got := h.read("dir/manifest.json"); string(got) != string(stored.blobs[stored.Digest]) {
			t.Errorf("pulled manifest %s, want %s", got, stored.blobs[stored.Digest])
		}
	})

	t.Run("a copy in another repository is the same", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		copyAll(h, "docker://"+r.name("skopeo/layout:v1"), "docker://"+r.name("skopeo/copy:v1"))
		r.image("skopeo/layout", "v1").wantSame(t, r.image("skopeo/copy", "v1"))
	})

	t.Run("a deleted image is gone", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		h.run(skopeo, "delete", "--tls-verify=false", "docker://"+r.name("skopeo/copy:v1"))
		if status, _, _ := r.do(http.MethodGet, "/v2/skopeo/copy/manifests/v1"); status != http.StatusNotFound {
			t.Errorf("the deleted image's tag answers %d", status)
		}
		got := decode[struct{ Tags []string }](t, []byte(h.run(skopeo, "list-tags", "--tls-verify=false", "docker://"+r.name("skopeo/v2s2"))))
		if !slices.Equal(got.Tags, []string{"v1"}) {
			t.Errorf("tags of the other repository are %s, want v1", got.Tags)
		}
	})
}

func TestRegctlMovesImagesUnchanged(t *testing.T) {
	regctl := tool(t, "regctl")
	r, h := startRegistry(t), newHome(t)
	plain := "--host=reg=" + r.addr + ",tls=disabled"

	t.Run("a layout with two platforms comes back as it was", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		pushed := newPlatforms(t)
		pushed.writeLayout(t, h.path("pushed"), "v1")
		h.run(regctl, plain, "image", "copy", "ocidir://"+h.path("pushed")+":v1", r.name("regctl/layout:v1"))
		pushed.wantSame(t, r.image("regctl/layout", "v1"))

		h.run(regctl, plain, "image", "copy", r.name("regctl/layout:v1"), "ocidir://"+h.path("pulled")+":v1")
		pushed.wantSame(t, readLayout(t, os.DirFS(h.path("pulled"))))
		if got := h.run(regctl, plain, "image", "digest", r.name("regctl/layout:v1")); got != pushed.Digest.String() {
			t.Errorf("regctl says %s, want %s", got, pushed.Digest)
		}
	})

	t.Run("an artifact and its referrer travel together", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		subject := r.digest("regctl/layout", "v1")
		content := h.write("sbom.json", newGreeting())
		h.run(regctl, plain, "artifact", "put", "--subject", r.name("regctl/layout:v1"),
			"--artifact-type", "application/example.sbom", "--file", content)
		referrers := r.referrers("regctl/layout", subject)
		if len(referrers) != 1 || referrers[0].ArtifactType != "application/example.sbom" {
			t.Fatalf("referrers are %v, want one", referrers)
		}
		h.run(regctl, plain, "image", "copy", "--referrers", r.name("regctl/layout:v1"), r.name("regctl/copy:v1"))
		r.image("regctl/layout", "v1").wantSame(t, r.image("regctl/copy", "v1"))
		if got := r.referrers("regctl/copy", subject); len(got) != 1 || got[0].Digest != referrers[0].Digest {
			t.Errorf("referrers of the copy are %v, want %s", got, referrers[0].Digest)
		}
		got := h.run(regctl, plain, "artifact", "get", "--subject", r.name("regctl/copy:v1"), "--filter-artifact-type", "application/example.sbom")
		if want := string(h.read("sbom.json")); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})

	t.Run("a tag can be deleted without its image", func(t *testing.T) {
		r, h := r.in(t), h.in(t)
		want := r.digest("regctl/copy", "v1")
		h.run(regctl, plain, "image", "copy", r.name("regctl/copy:v1"), r.name("regctl/copy:v2"))
		h.run(regctl, plain, "tag", "delete", r.name("regctl/copy:v1"))
		if got := h.run(regctl, plain, "tag", "ls", r.name("regctl/copy")); got != "v2" {
			t.Errorf("tags are %q, want v2", got)
		}
		if got := r.digest("regctl/copy", "v2"); got != want {
			t.Errorf("v2 is %s, want %s", got, want)
		}
	})
}
