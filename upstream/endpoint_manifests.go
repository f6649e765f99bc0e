package upstream

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// What is asked for as a manifest. Without Docker's old schema 1 in it, registries that
// could still give it do not.
var acceptManifests = http.Header{"Accept": {strings.Join(manifestTypes, ", ")}}

var manifestTypes = []string{
	imagespec.MediaTypeImageIndex,
	imagespec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
}

func (e *endpoint) head(ctx context.Context, name string, ref storage.Reference) (desc imagespec.Descriptor, err error) {
	err = e.ask(ctx, http.MethodHead, name, e.url(name, "manifests/"+ref.String(), nil), acceptManifests, func(resp *http.Response) error {
		desc = imagespec.Descriptor{Digest: ref.Digest, Size: -1}
		if resp.StatusCode == http.StatusMethodNotAllowed {
			return nil // it has no HEAD, and so nothing to tell
		}
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		if desc.MediaType, err = e.manifestType(resp); err != nil {
			return err
		}
		if contentCoding(resp) == "" {
			desc.Size = resp.ContentLength
		}
		told, err := e.toldDigest(resp)
		if err != nil {
			return err
		}
		if ref.Digest == "" {
			desc.Digest = told
		}
		return nil
	})
	return desc, err
}

func (e *endpoint) manifest(ctx context.Context, name string, ref storage.Reference) (m *storage.Manifest, err error) {
	err = e.ask(ctx, http.MethodGet, name, e.url(name, "manifests/"+ref.String(), nil), acceptManifests, func(resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		mediaType, err := e.manifestType(resp)
		if err != nil {
			return err
		}
		body, err := e.decoded(ctx, resp)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(io.LimitReader(body, storage.MaxManifestSize+1))
		if err != nil {
			return e.explain(ctx, err)
		}
		want := ref.Digest
		if want == "" {
			if want, err = e.toldDigest(resp); err != nil {
				return err
			}
		}
		m, err = e.parseManifest(mediaType, content, want)
		return err
	})
	return m, err
}

// parseManifest verifies content against want, if that is not empty. What storage would
// tell somebody who pushes it is not passed on as such: it is not the client's fault.
func (e *endpoint) parseManifest(mediaType string, content []byte, want digest.Digest) (*storage.Manifest, error) {
	if len(content) > storage.MaxManifestSize {
		return nil, e.fail(ErrInvalid, "%s sent a manifest of more than %d bytes", e.base.Host, storage.MaxManifestSize)
	}
	algorithm := digest.SHA256
	if want != "" {
		algorithm = want.Algorithm()
		if got := algorithm.FromBytes(content); got != want {
			return nil, e.fail(ErrInvalid, "%s sent %d bytes with digest %s as manifest %s", e.base.Host, len(content), got, want)
		}
	}
	m, err := storage.ParseManifest(mediaType, content, algorithm)
	if err != nil {
		var schema struct{ SchemaVersion int }
		if json.Unmarshal(content, &schema) == nil && schema.SchemaVersion == 1 {
			return nil, e.oldSchema()
		}
		return nil, e.fail(ErrInvalid, "%s: %v", e.base.Host, err)
	}
	return m, nil
}

func (e *endpoint) oldSchema() error {
	return e.fail(ErrInvalid, "the image is in Docker's old format, schema 1, which is not supported; it must be pushed again by a Docker of 2016 or later")
}

// manifestType returns the media type that the answer claims for a manifest, or "" if it
// claims none in particular, as file servers do: then the document itself says it.
func (e *endpoint) manifestType(resp *http.Response) (string, error) {
	claimed := resp.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(claimed)
	switch {
	case slices.Contains(manifestTypes, mediaType):
		return mediaType, nil
	case claimed == "", mediaType == "application/json", mediaType == "application/octet-stream", mediaType == "text/plain":
		return "", nil
	case strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+"):
		return "", e.oldSchema()
	case err != nil:
		return "", e.fail(ErrInvalid, "%s sent Content-Type %q: %v", resp.Request.URL.Host, claimed, err)
	}
	return "", e.fail(ErrInvalid, "%s sent %q instead of a manifest", resp.Request.URL.Host, claimed)
}

// toldDigest returns the Docker-Content-Digest header, which may be missing.
func (e *endpoint) toldDigest(resp *http.Response) (digest.Digest, error) {
	told := resp.Header.Get("Docker-Content-Digest")
	if told == "" {
		return "", nil
	}
	d, err := storage.ParseDigest(told)
	if err != nil {
		return "", e.fail(ErrInvalid, "%s: Docker-Content-Digest: %v", resp.Request.URL.Host, err)
	}
	return d, nil
}
