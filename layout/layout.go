// Package layout brings content from OCI image layouts into a registry, and takes it out
// to such (image-spec, "OCI Image Layout"). A folder of layouts, as zot's storage is, is a
// registry of as many repositories.
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// Summary is what was imported or exported.
type Summary struct {
	Repositories int64 `json:"repositories"`
	Tags         int64 `json:"tags"`
	Manifests    int64 `json:"manifests"`
	Blobs        int64 `json:"blobs"`    // whose bytes came; those that were there are not among them
	Linked       int64 `json:"linked"`   // of those, without being copied
	Bytes        int64 `json:"bytes"`    // of blobs that came
	Keys         int64 `json:"keys"`     // API keys
	Problems     int64 `json:"problems"` // what was told and left out
}

// ErrProblems means that something was left out, which was told; all else was done.
var ErrProblems = errors.New("not everything could be done")

const (
	indexFile  = "index.json"
	layoutFile = "oci-layout"
	// maxIndex is the largest index.json that is read, in bytes: some 200,000 tags.
	maxIndex = 64 << 20
)

// source is one layout in a folder that is not left by way of links.
type source struct {
	root   *os.Root
	folder string // of the root, absolute
	path   string // of the layout in it, with slashes; "." is the root itself
}

// open opens a regular file of the layout.
func (s *source) open(name string) (*os.File, int64, error) {
	name = path.Join(s.path, name)
	info, err := s.root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a file", name)
	}
	f, err := s.root.Open(name)
	return f, info.Size(), err
}

// read returns a file of the layout that has at most max bytes.
func (s *source) read(name string, max int64) ([]byte, error) {
	f, size, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > max {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", name, size, max)
	}
	return io.ReadAll(io.LimitReader(f, max))
}

func blobName(d digest.Digest) string {
	return path.Join("blobs", d.Algorithm().String(), d.Encoded())
}

// blobFile returns the absolute path of a blob's file, and its size.
func (s *source) blobFile(d digest.Digest) (string, int64, error) {
	f, size, err := s.open(blobName(d))
	if err != nil {
		return "", 0, err
	}
	return filepath.Join(s.folder, filepath.FromSlash(path.Join(s.path, blobName(d)))), size, f.Close()
}

// index returns the descriptors of the layout's index.json.
func (s *source) index() ([]imagespec.Descriptor, error) {
	content, err := s.read(indexFile, maxIndex)
	if err != nil {
		return nil, err
	}
	var index imagespec.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	return index.Manifests, nil
}

// manifest returns a manifest of the layout, if its bytes are right.
func (s *source) manifest(desc imagespec.Descriptor) (*storage.Manifest, error) {
	d, err := storage.ParseDigest(desc.Digest.String())
	if err != nil {
		return nil, err
	}
	content, err := s.read(blobName(d), storage.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	if got := d.Algorithm().FromBytes(content); got != d {
		return nil, fmt.Errorf("%w: its bytes have digest %s", storage.ErrDigestInvalid, got)
	}
	return storage.ParseManifest(desc.MediaType, content, d.Algorithm())
}

// findLayouts returns where the layouts of a folder are: the folder itself, or folders
// below it that have an index.json. What begins with a dot or an underscore is zot's own.
func findLayouts(root *os.Root) ([]string, error) {
	if _, err := root.Lstat(indexFile); err == nil {
		return []string{"."}, nil
	}
	var found []string
	err := fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == "." || !entry.IsDir() {
			return nil
		}
		base := path.Base(name)
		if strings.HasPrefix(base, "_") || strings.HasPrefix(base, ".") || base == "blobs" && slices.Contains(found, path.Dir(name)) {
			return fs.SkipDir
		}
		if _, err := root.Lstat(path.Join(name, indexFile)); err == nil {
			found = append(found, name)
		}
		return nil
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("there is no %s, in none of its folders either", indexFile)
	}
	return found, err
}

// tagOf returns the tag that a descriptor has in an index.json, if it has one: its name,
// or that of the full reference that some tools write there.
func tagOf(desc imagespec.Descriptor) string {
	name := desc.Annotations[imagespec.AnnotationRefName]
	if i := strings.LastIndexByte(name, ':'); i >= 0 && strings.Contains(name, "/") {
		return name[i+1:]
	}
	return name
}
