//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is an image, an index or an artifact with all that it leads to.
type image struct {
	imagespec.Descriptor
	blobs map[digest.Digest][]byte // manifests too
}

var (
	manifestTypes = []string{imagespec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json"}
	indexTypes    = []string{imagespec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json"}
)

func isManifest(d imagespec.Descriptor) bool {
	return slices.Contains(manifestTypes, d.MediaType) || slices.Contains(indexTypes, d.MediaType)
}

// newImage makes an image that says and holds something new, a layer for each of files.
func newImage(t *testing.T, architecture string, files ...map[string][]byte) *image {
	t.Helper()
	i := &image{blobs: make(map[digest.Digest][]byte)}
	config := imagespec.Image{
		Platform: imagespec.Platform{OS: "linux", Architecture: architecture},
		Config:   imagespec.ImageConfig{Cmd: []string{"/hello"}, WorkingDir: "/"},
		RootFS:   imagespec.RootFS{Type: "layers"},
	}
	manifest := imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imagespec.MediaTypeImageManifest,
	}
	for _, layer := range files {
		content := newTar(t, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(content))
		manifest.Layers = append(manifest.Layers, i.put(imagespec.MediaTypeImageLayerGzip, compress(t, content)))
	}
	manifest.Config = i.put(imagespec.MediaTypeImageConfig, encode(t, config))
	i.Descriptor = i.put(manifest.MediaType, encode(t, manifest))
	i.Platform = &config.Platform
	return i
}

// newIndex makes an index over images.
func newIndex(t *testing.T, images ...*image) *image {
	t.Helper()
	i := &image{blobs: make(map[digest.Digest][]byte)}
	index := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex}
	for _, child := range images {
		index.Manifests = append(index.Manifests, child.Descriptor)
		maps.Copy(i.blobs, child.blobs)
	}
	i.Descriptor = i.put(index.MediaType, encode(t, index))
	return i
}

// newPlatforms makes an index of images for two platforms, with a layer in common.
func newPlatforms(t *testing.T) *image {
	t.Helper()
	shared := map[string][]byte{"shared": randomBytes(1 << 20)}
	return newIndex(t,
		newImage(t, "amd64", shared, map[string][]byte{"amd64": randomBytes(3 << 20)}),
		newImage(t, "arm64", shared, map[string][]byte{"arm64": randomBytes(100)}))
}

func (i *image) put(mediaType string, content []byte) imagespec.Descriptor {
	d := imagespec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	i.blobs[d.Digest] = content
	return d
}

// add adds what a descriptor leads to, read with fetch.
func (i *image) add(t *testing.T, descriptor imagespec.Descriptor, fetch func(imagespec.Descriptor) []byte) {
	t.Helper()
	content := fetch(descriptor)
	if d := digest.FromBytes(content); d != descriptor.Digest || int64(len(content)) != descriptor.Size {
		t.Fatalf("%s of %d bytes has content with digest %s and %d bytes", descriptor.Digest, descriptor.Size, d, len(content))
	}
	i.blobs[descriptor.Digest] = content
	if !isManifest(descriptor) {
		return
	}
	manifest, children := decode[imagespec.Manifest](t, content), decode[imagespec.Index](t, content).Manifests
	if slices.Contains(manifestTypes, descriptor.MediaType) {
		children = append(manifest.Layers, manifest.Config)
	}
	for _, child := range children {
		if _, ok := i.blobs[child.Digest]; !ok {
			i.add(t, child, fetch)
		}
	}
}

// manifest returns the manifest, unless this is an index.
func (i *image) manifest(t *testing.T) imagespec.Manifest {
	t.Helper()
	return decode[imagespec.Manifest](t, i.blobs[i.Digest])
}

// index returns the index, if this is one.
func (i *image) index(t *testing.T) imagespec.Index {
	t.Helper()
	return decode[imagespec.Index](t, i.blobs[i.Digest])
}

// wantSame fails the test for whatever is not, byte for byte, the same in got.
func (i *image) wantSame(t *testing.T, got *image) {
	t.Helper()
	if got.Digest != i.Digest || got.MediaType != i.MediaType || got.Size != i.Size {
		t.Errorf("got %s %s of %d bytes, want %s %s of %d bytes", got.MediaType, got.Digest, got.Size, i.MediaType, i.Digest, i.Size)
	}
	for d, content := range i.blobs {
		if other, ok := got.blobs[d]; !ok || !bytes.Equal(content, other) {
			t.Errorf("%s: got %d bytes (present: %t), want %d others", d, len(other), ok, len(content))
		}
	}
	for d := range got.blobs {
		if _, ok := i.blobs[d]; !ok {
			t.Errorf("%s was never pushed", d)
		}
	}
}

// file returns the content of a file in one of the image's layers.
func (i *image) file(t *testing.T, name string) []byte {
	t.Helper()
	layers := i.manifest(t).Layers
	for _, layer := range slices.Backward(layers) {
		content := i.blobs[layer.Digest]
		if strings.Contains(layer.MediaType, "gzip") {
			content = decompress(t, content)
		}
		if found, ok := readTar(t, content)[name]; ok {
			return found
		}
	}
	t.Fatalf("%s has no file %s in its %d layers", i.Digest, name, len(layers))
	return nil
}

// writeLayout makes an OCI image layout in which the image has a tag.
func (i *image) writeLayout(t *testing.T, dir, tag string) {
	t.Helper()
	for name, content := range i.layout(t, tag) {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// layout returns the files of an OCI image layout.
func (i *image) layout(t *testing.T, tag string) map[string][]byte {
	t.Helper()
	tagged := i.Descriptor
	tagged.Annotations = map[string]string{imagespec.AnnotationRefName: tag}
	files := map[string][]byte{
		imagespec.ImageLayoutFile: encode(t, imagespec.ImageLayout{Version: imagespec.ImageLayoutVersion}),
		imagespec.ImageIndexFile: encode(t, imagespec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2},
			Manifests: []imagespec.Descriptor{tagged},
		}),
	}
	for d, content := range i.blobs {
		files[blobFile(d)] = content
	}
	return files
}

func blobFile(d digest.Digest) string {
	return imagespec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// readLayout returns the image of an OCI image layout, of which clients may list the
// parts besides.
func readLayout(t *testing.T, files fs.FS) *image {
	t.Helper()
	read := func(name string) []byte {
		content, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	index := decode[imagespec.Index](t, read(imagespec.ImageIndexFile))
	roots := slices.DeleteFunc(index.Manifests, func(d imagespec.Descriptor) bool {
		return len(index.Manifests) > 1 && d.Annotations[imagespec.AnnotationRefName] == ""
	})
	if len(roots) != 1 {
		t.Fatalf("the layout has %d images, want 1", len(roots))
	}
	i := &image{Descriptor: roots[0], blobs: make(map[digest.Digest][]byte)}
	i.add(t, i.Descriptor, func(d imagespec.Descriptor) []byte { return read(blobFile(d.Digest)) })
	return i
}

func newTar(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// readTar returns the regular files of a tar.
func readTar(t *testing.T, content []byte) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	r := tar.NewReader(bytes.NewReader(content))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if files[strings.TrimPrefix(header.Name, "./")], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func compress(t *testing.T, content []byte) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	_, err := w.Write(content)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func decompress(t *testing.T, content []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func encode(t *testing.T, value any) []byte {
	t.Helper()
	content, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func decode[T any](t *testing.T, content []byte) T {
	t.Helper()
	var value T
	if err := json.Unmarshal(content, &value); err != nil {
		t.Fatalf("%v in %s", err, content)
	}
	return value
}

// randomBytes returns what no registry has seen and nothing can compress.
func randomBytes(n int) []byte {
	content := make([]byte, n)
	_, _ = rand.Read(content) // never fails
	return content
}

// newGreeting returns a short text that is new.
func newGreeting() string { return fmt.Sprintf("greeting %x", randomBytes(8)) }
