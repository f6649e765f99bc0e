package storage_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

const (
	ociImage    = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	dockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
)

var (
	digestA = digest.FromString("a")
	digestB = digest.FromString("b")
	digestC = digest.SHA512.FromString("c")
)

// desc is a descriptor as JSON, with more fields if given.
func desc(mediaType string, d digest.Digest, more ...string) string {
	return fmt.Sprintf(`{"mediaType":%q,"size":1,"digest":%q%s}`, mediaType, d, strings.Join(more, ""))
}

// config and layers of an image.
func imageFields(layers ...string) string {
	return `"config":` + desc("application/vnd.oci.image.config.v1+json", digestA) + `,"layers":[` + strings.Join(layers, ",") + `]`
}

const layerType = "application/vnd.oci.image.layer.v1.tar"

func TestParseManifest(t *testing.T) {
	layer := desc(layerType, digestB)
	for _, c := range []struct {
		name, contentType, content string
		want                       storage.Manifest
	}{
		{
			"image", ociImage, `{"schemaVersion":2,"mediaType":"` + ociImage + `",` + imageFields(layer) + `}`,
			storage.Manifest{MediaType: ociImage, ArtifactType: "application/vnd.oci.image.config.v1+json", Required: []digest.Digest{digestA, digestB}},
		},
		{
			"type in the header only", ociImage, `{"schemaVersion":2,` + imageFields() + `}`,
			storage.Manifest{MediaType: ociImage, ArtifactType: "application/vnd.oci.image.config.v1+json", Required: []digest.Digest{digestA}},
		},
		{
			"type in the document only", "", `{"schemaVersion":2,"mediaType":"` + ociImage + `",` + imageFields() + `}`,
			storage.Manifest{MediaType: ociImage, ArtifactType: "application/vnd.oci.image.config.v1+json", Required: []digest.Digest{digestA}},
		},
		{
			"parameters of Content-Type", ociImage + `; charset="utf-8"`, `{"schemaVersion":2,"mediaType":"` + ociImage + `",` + imageFields() + `}`,
			storage.Manifest{MediaType: ociImage, ArtifactType: "application/vnd.oci.image.config.v1+json", Required: []digest.Digest{digestA}},
		},
		{
			"Docker image", dockerImage, `{"schemaVersion":2,"mediaType":"` + dockerImage + `",` + imageFields(layer, layer) + `}`,
			storage.Manifest{MediaType: dockerImage, ArtifactType: "application/vnd.oci.image.config.v1+json", Required: []digest.Digest{digestA, digestB, digestB}},
		},
		{
			"Docker list", dockerList, `{"schemaVersion":2,"mediaType":"` + dockerList + `","manifests":[` + desc(dockerImage, digestA) + `]}`,
			storage.Manifest{MediaType: dockerList, Children: []digest.Digest{digestA}},
		},
		{
			"index", ociIndex, `{"schemaVersion":2,"manifests":[` + desc(ociImage, digestA) + "," + desc(layerType, digestC) + `],"annotations":{"a":"b"}}`,
			storage.Manifest{MediaType: ociIndex, Children: []digest.Digest{digestA, digestC}, Annotations: map[string]string{"a": "b"}},
		},
		{"empty index", ociIndex, `{"schemaVersion":2,"manifests":[]}`, storage.Manifest{MediaType: ociIndex}},
		{
			"artifact with a subject", ociImage,
			`{"schemaVersion":2,"artifactType":"application/x","subject":` + desc(ociImage, digestC) + `,` + imageFields() + `}`,
			storage.Manifest{MediaType: ociImage, ArtifactType: "application/x", Subject: digestC, Required: []digest.Digest{digestA}},
		},
		{
			"layers that are elsewhere", dockerImage, `{"schemaVersion":2,` + imageFields(
				desc("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", digestB),
				desc("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", digestB),
				desc(layerType, digestC, `,"urls":["https://example.com"]`)) + `}`,
			storage.Manifest{
				MediaType: dockerImage, ArtifactType: "application/vnd.oci.image.config.v1+json",
				Required: []digest.Digest{digestA}, Elsewhere: []digest.Digest{digestB, digestB, digestC},
			},
		},
		{"white space after it", ociIndex, `{"schemaVersion":2,"manifests":[]}` + "\r\n\t ", storage.Manifest{MediaType: ociIndex}},
		{"unknown fields", ociIndex, `{"schemaVersion":2,"manifests":[],"new":{"in":["1.2"]}}`, storage.Manifest{MediaType: ociIndex}},
		{
			"a digest of an algorithm that is not kept", ociIndex, `{"schemaVersion":2,"manifests":[` + desc(ociImage, "blake3:abc") + `]}`,
			storage.Manifest{MediaType: ociIndex, Children: []digest.Digest{"blake3:abc"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				m, err := storage.ParseManifest(c.contentType, []byte(c.content), algorithm)
				if err != nil {
					t.Fatal(err)
				}
				if m.Digest != algorithm.FromString(c.content) || string(m.Content) != c.content {
					t.Errorf("digest %s of %q", m.Digest, m.Content)
				}
				if m.MediaType != c.want.MediaType || m.ArtifactType != c.want.ArtifactType || m.Subject != c.want.Subject || !maps.Equal(m.Annotations, c.want.Annotations) {
					t.Errorf("got %+v, want %+v", m, c.want)
				}
				if !slices.Equal(m.Required, c.want.Required) || !slices.Equal(m.Children, c.want.Children) || !slices.Equal(m.Elsewhere, c.want.Elsewhere) {
					t.Errorf("names %v, %v, %v, want %v, %v, %v", m.Required, m.Children, m.Elsewhere, c.want.Required, c.want.Children, c.want.Elsewhere)
				}
			}
		})
	}
}

func TestParseManifestRefuses(t *testing.T) {
	image := func(more string) string { return `{"schemaVersion":2,` + imageFields() + more + `}` }
	index := func(more string) string { return `{"schemaVersion":2,"manifests":[]` + more + `}` }
	for _, c := range []struct{ name, contentType, content string }{
		{"nothing", ociImage, ``},
		{"white space", ociImage, ` `},
		{"half a document", ociImage, `{"schemaVersion":2,`},
		{"no object", ociImage, `[]`},
		{"null", ociImage, `null`},
		{"text", ociImage, `"schemaVersion"`},
		{"a field of another kind", ociImage, `{"schemaVersion":"2",` + imageFields() + `}`},
		{"a second document", ociImage, image("") + image("")},
		{"bytes after it", ociImage, image("") + "x"},
		{"a zero byte after it", ociImage, image("") + "\x00"},
		{"space after it that JSON does not know", ociImage, image("") + "\u00a0"},
		{"a form feed after it", ociImage, image("") + "\f"},
		{"no type", "", image("")},
		{"another type in the header", ociIndex, image(`,"mediaType":"` + ociImage + `"`)},
		{"Docker's type in the header", dockerImage, image(`,"mediaType":"` + ociImage + `"`)},
		{"a type that is no manifest", "application/json", image("")},
		{"a type that a browser runs", "text/html", image("")},
		{"Docker schema 1", "application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1,"fsLayers":[]}`},
		{"a broken Content-Type", ociImage + `; charset`, image("")},
		{"a Content-Type of two", ociImage + `, ` + ociIndex, image("")},
		{"schemaVersion 1", ociImage, `{"schemaVersion":1,` + imageFields() + `}`},
		{"no schemaVersion", ociImage, `{` + imageFields() + `}`},
		{"no config", ociImage, `{"schemaVersion":2,"layers":[]}`},
		{"config null", ociImage, `{"schemaVersion":2,"config":null,"layers":[]}`},
		{"an empty config", ociImage, `{"schemaVersion":2,"config":{},"layers":[]}`},
		{"an image with manifests", ociImage, image(`,"manifests":[]`)},
		{"an image with manifests that are there", dockerImage, image(`,"manifests":[` + desc(ociImage, digestB) + `]`)},
		{"an image with fsLayers", ociImage, image(`,"fsLayers":[]`)},
		{"an index with layers", ociIndex, index(`,"layers":[]`)},
		{"an index with a config", dockerList, index(`,"config":` + desc("", digestA))},
		{"an index with fsLayers", ociIndex, index(`,"fsLayers":null`)},
		{"an index with layers, spelt otherwise", ociIndex, index(`,"LAYERS":[]`)},
		{"a layer without a digest", ociImage, `{"schemaVersion":2,` + imageFields(`{"mediaType":"x","size":1}`) + `}`},
		{"a digest without an algorithm", ociImage, `{"schemaVersion":2,` + imageFields(desc(layerType, digest.Digest(digestB.Encoded()))) + `}`},
		{"a digest too short", ociImage, `{"schemaVersion":2,` + imageFields(desc(layerType, digestB[:70])) + `}`},
		{"a digest too long", ociIndex, `{"schemaVersion":2,"manifests":[` + desc(ociImage, digestB+"0") + `]}`},
		{"a digest in capitals", ociIndex, `{"schemaVersion":2,"manifests":[` + desc(ociImage, "sha256:"+digest.Digest(strings.ToUpper(digestB.Encoded()))) + `]}`},
		{"a digest that is a path", ociIndex, `{"schemaVersion":2,"manifests":[` + desc(ociImage, "sha256:../../etc/passwd") + `]}`},
		{"a wrong digest of an algorithm that is not kept", ociIndex, `{"schemaVersion":2,"manifests":[` + desc(ociImage, "md5:") + `]}`},
		{"a subject with a wrong digest", ociImage, image(`,"subject":` + desc(ociImage, "sha256:abc"))},
		{"a subject without a digest", ociImage, image(`,"subject":{}`)},
		{"a negative size", ociImage, `{"schemaVersion":2,` + imageFields(`{"mediaType":"x","size":-1,"digest":"`+digestB.String()+`"}`) + `}`},
		{"a size that is no number", ociImage, `{"schemaVersion":2,` + imageFields(`{"mediaType":"x","size":1.5,"digest":"`+digestB.String()+`"}`) + `}`},
		{"a negative size of the subject", ociImage, image(`,"subject":{"mediaType":"x","size":-1,"digest":"` + digestB.String() + `"}`)},
		{"annotations that are no text", ociImage, image(`,"annotations":{"a":1}`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := storage.ParseManifest(c.contentType, []byte(c.content), digest.SHA256)
			if !errors.Is(err, storage.ErrManifestInvalid) {
				t.Errorf("error %v, want %v", err, storage.ErrManifestInvalid)
			}
			if errors.Is(err, storage.ErrManifestTooLarge) {
				t.Errorf("said to be too large: %v", err)
			}
		})
	}
}

func TestParseManifestSize(t *testing.T) {
	content := []byte(`{"schemaVersion":2,"manifests":[]}`)
	largest := append(content, bytes.Repeat([]byte(" "), storage.MaxManifestSize-len(content))...)
	if _, err := storage.ParseManifest(ociIndex, largest, digest.SHA256); err != nil {
		t.Errorf("a manifest of %d bytes: %v", len(largest), err)
	}
	_, err := storage.ParseManifest(ociIndex, append(largest, ' '), digest.SHA256)
	if !errors.Is(err, storage.ErrManifestTooLarge) || errors.Is(err, storage.ErrManifestInvalid) {
		t.Errorf("a manifest of %d bytes: %v", len(largest)+1, err)
	}
}

// FuzzParseManifest checks that what is taken is one kind of JSON document and names
// only what has the form of a digest.
func FuzzParseManifest(f *testing.F) {
	f.Add(ociImage, []byte(`{"schemaVersion":2,"mediaType":"`+ociImage+`",`+imageFields(desc(layerType, digestB))+`}`))
	f.Add(ociIndex, []byte(`{"schemaVersion":2,"manifests":[`+desc(ociImage, digestC)+`],"annotations":{"a":"b"}}`+"\n"))
	f.Add(dockerList+"; charset=utf-8", []byte(`{"schemaVersion":2,"manifests":[]}`))
	f.Add("", []byte(`{"schemaVersion":2,"mediaType":"`+dockerImage+`",`+imageFields()+`,"subject":`+desc(ociImage, digestA)+`}`))
	f.Add(ociImage, []byte(`{"schemaVersion":2,`+imageFields()+`,"manifests":[]} {}`))
	f.Fuzz(func(t *testing.T, contentType string, content []byte) {
		before := bytes.Clone(content)
		m, err := storage.ParseManifest(contentType, content, digest.SHA256)
		if !bytes.Equal(content, before) {
			t.Fatal("the content was changed")
		}
		if err != nil {
			if !errors.Is(err, storage.ErrManifestInvalid) && !errors.Is(err, storage.ErrManifestTooLarge) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if !json.Valid(content) {
			t.Error("it is not JSON")
		}
		if m.Digest != digest.FromBytes(content) || !bytes.Equal(m.Content, content) {
			t.Error("it is other content")
		}
		switch m.MediaType {
		case ociImage, dockerImage:
			if len(m.Required) == 0 || len(m.Children) > 0 {
				t.Errorf("an image of %d blobs and %d manifests", len(m.Required), len(m.Children))
			}
		case ociIndex, dockerList:
			if len(m.Required) > 0 || len(m.Elsewhere) > 0 {
				t.Errorf("an index of %d blobs", len(m.Required)+len(m.Elsewhere))
			}
		default:
			t.Errorf("type %q", m.MediaType)
		}
		for _, d := range slices.Concat(m.Required, m.Children, m.Elsewhere, []digest.Digest{m.Subject}) {
			if d == "" && d == m.Subject {
				continue
			}
			if err := d.Validate(); err != nil && !errors.Is(err, digest.ErrDigestUnsupported) {
				t.Errorf("it names %q: %v", d, err)
			}
		}
		again, err := storage.ParseManifest(m.MediaType, content, digest.SHA512)
		if err != nil || again.Subject != m.Subject || again.ArtifactType != m.ArtifactType {
			t.Errorf("read again it is %+v, %v", again, err)
		}
	})
}
