package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifestSize is the largest manifest that is taken, in bytes. The distribution
// spec asks registries to take at least 4 megabytes.
const MaxManifestSize = 4 << 20

// Docker's media types, which are stored byte for byte beside OCI's.
const (
	mediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	mediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerForeignLayerPrefix    = "application/vnd.docker.image.rootfs.foreign."
	ociForeignLayerPrefix       = "application/vnd.oci.image.layer.nondistributable."
)

// Manifest is an image manifest or index: its bytes, and what a registry reads in them.
// It is never changed once parsed.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Content   []byte

	// Subject is the digest of the manifest that this one refers to, or empty.
	Subject digest.Digest
	// ArtifactType is what a referrers list shows: the manifest's own, else an image's
	// config media type, else empty.
	ArtifactType string
	Annotations  map[string]string

	// Required are the blobs that an image is not whole without.
	Required []digest.Digest
	// Children are the entries of an index.
	Children []digest.Digest
	// Elsewhere are layers that may be kept outside of the registry.
	Elsewhere []digest.Digest

	// descriptors are of all content that it names.
	descriptors []imagespec.Descriptor
}

// manifestFields is the union of what image manifests and indexes hold. The kinds of
// field that tell them apart are kept raw, so that one that is there but does not
// belong is noticed.
type manifestFields struct {
	SchemaVersion int                    `json:"schemaVersion"`
	MediaType     string                 `json:"mediaType"`
	ArtifactType  string                 `json:"artifactType"`
	Config        *imagespec.Descriptor  `json:"config"`
	Layers        []imagespec.Descriptor `json:"layers"`
	Manifests     []imagespec.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage        `json:"fsLayers"`
	Subject       *imagespec.Descriptor  `json:"subject"`
	Annotations   map[string]string      `json:"annotations"`
}

// ParseManifest reads content, which was pushed with the given Content-Type, as one of
// OCI's or Docker's image manifests or indexes. Its digest is of the given algorithm.
// Errors wrap ErrManifestInvalid, or ErrManifestTooLarge over [MaxManifestSize] bytes.
//
// A document that could be read as more than one kind is refused: clients that disagree
// on what an image is would each run another one (CVE-2021-41190).
func ParseManifest(contentType string, content []byte, algorithm digest.Algorithm) (*Manifest, error) {
	if len(content) > MaxManifestSize {
		return nil, fmt.Errorf("%w: at most %d bytes are taken", ErrManifestTooLarge, MaxManifestSize)
	}
	var fields manifestFields
	dec := json.NewDecoder(bytes.NewReader(content))
	if err := dec.Decode(&fields); err != nil {
		return nil, fmt.Errorf("%w: it is not JSON of a manifest: %w", ErrManifestInvalid, err)
	}
	if rest := bytes.Trim(content[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes follow the JSON document", ErrManifestInvalid, len(rest))
	}
	mediaType, err := manifestMediaType(contentType, fields.MediaType)
	if err != nil {
		return nil, err
	}
	if fields.SchemaVersion != 2 {
		return nil, fmt.Errorf("%w: schemaVersion is %d, must be 2", ErrManifestInvalid, fields.SchemaVersion)
	}

	m := &Manifest{
		Digest:       algorithm.FromBytes(content),
		MediaType:    mediaType,
		Content:      content,
		ArtifactType: fields.ArtifactType,
		Annotations:  fields.Annotations,
	}
	if fields.Subject != nil {
		if m.Subject, err = descriptorDigest("subject", *fields.Subject); err != nil {
			return nil, err
		}
	}
	if isIndex(mediaType) {
		err = m.readIndex(&fields)
	} else {
		err = m.readImage(&fields)
	}
	if err == nil && strings.ContainsRune(m.ArtifactType, 0) {
		// No database but SQLite has such text.
		err = fmt.Errorf("%w: its artifactType, or its config's mediaType, has a character of code 0", ErrManifestInvalid)
	}
	return m, err
}

func (m *Manifest) readIndex(fields *manifestFields) error {
	if fields.Config != nil || fields.Layers != nil || fields.FSLayers != nil {
		return fmt.Errorf("%w: an index has no config and no layers", ErrManifestInvalid)
	}
	for i, desc := range fields.Manifests {
		d, err := descriptorDigest(fmt.Sprintf("manifests[%d]", i), desc)
		if err != nil {
			return err
		}
		m.Children = append(m.Children, d)
		m.descriptors = append(m.descriptors, desc)
	}
	return nil
}

func (m *Manifest) readImage(fields *manifestFields) error {
	if fields.Manifests != nil || fields.FSLayers != nil {
		return fmt.Errorf("%w: an image manifest has no manifests and no fsLayers", ErrManifestInvalid)
	}
	if fields.Config == nil {
		return fmt.Errorf("%w: an image manifest must have a config", ErrManifestInvalid)
	}
	d, err := descriptorDigest("config", *fields.Config)
	if err != nil {
		return err
	}
	m.Required = append(m.Required, d)
	m.descriptors = append(m.descriptors, *fields.Config)
	if m.ArtifactType == "" {
		m.ArtifactType = fields.Config.MediaType
	}
	for i, desc := range fields.Layers {
		d, err := descriptorDigest(fmt.Sprintf("layers[%d]", i), desc)
		if err != nil {
			return err
		}
		m.descriptors = append(m.descriptors, desc)
		if len(desc.URLs) > 0 || strings.HasPrefix(desc.MediaType, dockerForeignLayerPrefix) || strings.HasPrefix(desc.MediaType, ociForeignLayerPrefix) {
			m.Elsewhere = append(m.Elsewhere, d)
			continue
		}
		m.Required = append(m.Required, d)
	}
	return nil
}

// references returns what the manifest names, each digest once.
func (m *Manifest) references() []imagespec.Descriptor {
	seen := make(map[digest.Digest]bool, len(m.descriptors))
	var all []imagespec.Descriptor
	for _, desc := range m.descriptors {
		if !seen[desc.Digest] {
			seen[desc.Digest] = true
			all = append(all, desc)
		}
	}
	return all
}

// manifestMediaType returns the type that the Content-Type header and the document agree on.
func manifestMediaType(contentType, inDocument string) (string, error) {
	mediaType := inDocument
	if contentType != "" {
		parsed, _, err := mime.ParseMediaType(contentType)
		if err != nil {
			return "", fmt.Errorf("%w: Content-Type %q: %w", ErrManifestInvalid, contentType, err)
		}
		if inDocument != "" && inDocument != parsed {
			return "", fmt.Errorf("%w: Content-Type is %q but its mediaType is %q", ErrManifestInvalid, parsed, inDocument)
		}
		mediaType = parsed
	}
	switch mediaType {
	case imagespec.MediaTypeImageManifest, imagespec.MediaTypeImageIndex, mediaTypeDockerManifest, mediaTypeDockerManifestList:
		return mediaType, nil
	case "":
		return "", fmt.Errorf("%w: neither Content-Type nor mediaType says what it is", ErrManifestInvalid)
	}
	return "", fmt.Errorf("%w: type %q is none of OCI's and Docker's image manifests and indexes", ErrManifestInvalid, mediaType)
}

func isIndex(mediaType string) bool {
	return mediaType == imagespec.MediaTypeImageIndex || mediaType == mediaTypeDockerManifestList
}

// descriptorDigest checks the parts of a descriptor that a registry relies on. The
// algorithm may be one that the registry keeps no content by: such content is absent.
func descriptorDigest(where string, desc imagespec.Descriptor) (digest.Digest, error) {
	if err := desc.Digest.Validate(); err != nil && !errors.Is(err, digest.ErrDigestUnsupported) {
		return "", fmt.Errorf("%w: %s has no valid digest: %q", ErrManifestInvalid, where, desc.Digest)
	}
	if desc.Size < 0 {
		return "", fmt.Errorf("%w: %s has a negative size", ErrManifestInvalid, where)
	}
	return desc.Digest, nil
}
