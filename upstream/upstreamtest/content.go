package upstreamtest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// contents are those of a repository. Bytes in them are never changed.
type contents struct {
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]Blob
	tags      map[string]digest.Digest
	private   bool // needs a password
}

// Blob is content with its descriptor: a blob or a manifest.
type Blob struct {
	imagespec.Descriptor
	Content []byte
}

// Image is an image in a repository.
type Image struct {
	Repository string
	Manifest   Blob
	Config     Blob
	Layers     []Blob
}

// Blobs returns the config and the layers.
func (i Image) Blobs() []Blob { return append([]Blob{i.Config}, i.Layers...) }

// Size returns how many bytes a client must read for the image: manifest, config and
// layers, each once.
func (i Image) Size() int64 {
	size := i.Manifest.Size
	seen := make(map[digest.Digest]bool)
	for _, blob := range i.Blobs() {
		if !seen[blob.Digest] {
			size += blob.Size
		}
		seen[blob.Digest] = true
	}
	return size
}

// Bytes returns size bytes that nothing can compress. One seed gives the same always.
func Bytes(seed uint64, size int) []byte {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(content) // never fails
	return content
}

// AddImage adds an image for linux/amd64. Equal layers give an equal image, with the
// same digests.
func (r *Registry) AddImage(repository, tag string, layers ...[]byte) Image {
	return r.AddPlatformImage(imagespec.Platform{OS: "linux", Architecture: "amd64"}, repository, tag, layers...)
}

// AddPlatformImage adds an image for a platform. An empty tag gives it none.
func (r *Registry) AddPlatformImage(platform imagespec.Platform, repository, tag string, layers ...[]byte) Image {
	image := Image{Repository: repository}
	config := imagespec.Image{Platform: platform, RootFS: imagespec.RootFS{Type: "layers"}}
	manifest := imagespec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageManifest}
	for _, layer := range layers {
		blob := r.AddBlob(repository, layer)
		blob.MediaType = imagespec.MediaTypeImageLayerGzip
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, blob.Digest)
		manifest.Layers = append(manifest.Layers, blob.Descriptor)
		image.Layers = append(image.Layers, blob)
	}
	image.Config = r.AddBlob(repository, encode(config))
	image.Config.MediaType = imagespec.MediaTypeImageConfig
	manifest.Config = image.Config.Descriptor
	image.Manifest = r.AddManifest(repository, tag, manifest.MediaType, encode(manifest))
	image.Manifest.Platform = &platform
	return image
}

// AddIndex adds an index of images.
func (r *Registry) AddIndex(repository, tag string, images ...Image) Blob {
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex}
	for _, image := range images {
		index.Manifests = append(index.Manifests, image.Manifest.Descriptor)
	}
	return r.AddManifest(repository, tag, index.MediaType, encode(index))
}

// AddReferrer adds an artifact, such as a signature, that refers to subject.
func (r *Registry) AddReferrer(repository string, subject Blob, artifactType string, content []byte) Blob {
	layer := r.AddBlob(repository, content)
	r.AddBlob(repository, imagespec.DescriptorEmptyJSON.Data)
	manifest := imagespec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    imagespec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       imagespec.DescriptorEmptyJSON,
		Layers:       []imagespec.Descriptor{layer.Descriptor},
		Subject:      &imagespec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
	}
	return r.AddManifest(repository, "", manifest.MediaType, encode(manifest))
}

// AddBlob adds a blob.
func (r *Registry) AddBlob(repository string, content []byte) Blob {
	blob := newBlob("application/octet-stream", content)
	r.change(repository, func(c *contents) { c.blobs[blob.Digest] = content })
	return blob
}

// AddManifest adds a manifest of any content. Reference is a tag, or empty, or a digest,
// under which it is then found whether it is its own or not.
func (r *Registry) AddManifest(repository, reference, mediaType string, content []byte) Blob {
	manifest := newBlob(mediaType, content)
	r.change(repository, func(c *contents) {
		c.manifests[manifest.Digest] = manifest
		switch {
		case strings.Contains(reference, ":"):
			c.manifests[digest.Digest(reference)] = manifest
		case reference != "":
			c.tags[reference] = manifest.Digest
		}
	})
	return manifest
}

// MoveTag makes a tag, or has it name another manifest.
func (r *Registry) MoveTag(repository, tag string, to digest.Digest) {
	r.change(repository, func(c *contents) { c.tags[tag] = to })
}

// DeleteTag removes a tag.
func (r *Registry) DeleteTag(repository, tag string) {
	r.change(repository, func(c *contents) { delete(c.tags, tag) })
}

// DeleteManifest removes a manifest and the tags that name it.
func (r *Registry) DeleteManifest(repository string, d digest.Digest) {
	r.change(repository, func(c *contents) {
		delete(c.manifests, d)
		for tag, named := range c.tags {
			if named == d {
				delete(c.tags, tag)
			}
		}
	})
}

// DeleteBlob removes a blob.
func (r *Registry) DeleteBlob(repository string, d digest.Digest) {
	r.change(repository, func(c *contents) { delete(c.blobs, d) })
}

// DeleteRepository removes a repository with all that is in it.
func (r *Registry) DeleteRepository(repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repositories, repository)
}

// SetPrivate hides a repository from tokens of nobody in particular: see [Tokens].
func (r *Registry) SetPrivate(repository string) {
	r.change(repository, func(c *contents) { c.private = true })
}

func (r *Registry) change(name string, change func(*contents)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repositories[name] == nil {
		r.repositories[name] = &contents{
			blobs:     make(map[digest.Digest][]byte),
			manifests: make(map[digest.Digest]Blob),
			tags:      make(map[string]digest.Digest),
		}
	}
	change(r.repositories[name])
}

func newBlob(mediaType string, content []byte) Blob {
	return Blob{imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}, content}
}

func encode(value any) []byte {
	content, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("upstreamtest: %v", err)) // values of this package
	}
	return content
}
