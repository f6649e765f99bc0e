package distribution

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// maxTags is how many ?tag= parameters a push may have; the spec asks for 10.
const maxTags = 100

// getManifest is end-3, "Pulling manifests".
func (h *Handler) getManifest(r request) error {
	ref, err := storage.ParseReference(r.reference)
	if err != nil {
		return err
	}
	m, err := r.source.Manifest(r.Context(), r.Repository, ref)
	if err != nil {
		return err
	}
	header := r.w.Header()
	header["Content-Type"] = []string{m.MediaType}
	header["Docker-Content-Digest"] = []string{m.Digest.String()}
	header["Etag"] = []string{`"` + m.Digest.String() + `"`}
	if hasConditions(r.Header) {
		return serveContent(r.w, r.Request, bytes.NewReader(m.Content), int64(len(m.Content)))
	}
	header["Content-Length"] = []string{strconv.Itoa(len(m.Content))}
	r.w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err = r.w.Write(m.Content)
	return ignoreClient(err)
}

// putManifest is end-7a and end-7b, "Pushing Manifests".
func (h *Handler) putManifest(r request) error {
	ref, err := storage.ParseReference(r.reference)
	if err != nil {
		return err
	}
	tags, err := pushedTags(ref, r.URL.Query()["tag"])
	if err != nil {
		return err
	}
	content, err := readManifest(r)
	if err != nil {
		return err
	}
	algorithm := digest.Canonical
	if ref.Digest != "" {
		algorithm = ref.Digest.Algorithm()
	}
	m, err := storage.ParseManifest(r.Header.Get("Content-Type"), content, algorithm)
	if err != nil {
		return err
	}
	if ref.Digest != "" && m.Digest != ref.Digest {
		return fmt.Errorf("%w: the manifest has digest %s, not %s", storage.ErrDigestInvalid, m.Digest, ref.Digest)
	}
	changes, err := h.Registry.PutManifest(r.Context(), r.Repository, m, storage.Put{Tags: tags, Check: r.authorizeTag, Sparse: h.Sparse})
	if err != nil {
		return err
	}
	h.pushed(r, m.Digest, ref.Tag, changes)
	header := r.w.Header()
	header.Set("Location", "/v2/"+r.Repository+"/manifests/"+m.Digest.String())
	header.Set("Docker-Content-Digest", m.Digest.String())
	if m.Subject != "" {
		header.Set("OCI-Subject", m.Subject.String())
	}
	for _, tag := range tags {
		if tag != ref.Tag {
			header.Add("OCI-Tag", tag)
		}
	}
	r.w.WriteHeader(http.StatusCreated)
	return nil
}

// pushed tells what a push did: to each tag that it made or moved, and at least once.
func (h *Handler) pushed(r request, d digest.Digest, tag string, changes []storage.TagChange) {
	if len(changes) == 0 {
		h.changed(r, Change{Kind: Pushed, Repository: r.Repository, Tag: tag, Digest: d})
	}
	for _, change := range changes {
		kind := Pushed
		if change.Previous != "" {
			kind = Overwritten
		}
		h.changed(r, Change{Kind: kind, Repository: r.Repository, Tag: change.Tag, Digest: d, Previous: change.Previous})
	}
}

// pushedTags returns the tags that a push makes: the one in its path and those of its
// ?tag= parameters.
func pushedTags(ref storage.Reference, params []string) ([]string, error) {
	if len(params) > maxTags {
		return nil, fmt.Errorf("%w: %d tags at once, at most %d are taken", storage.ErrTagInvalid, len(params), maxTags)
	}
	var tags []string
	if ref.Tag != "" {
		tags = append(tags, ref.Tag)
	}
	for _, tag := range params {
		if err := storage.CheckTag(tag); err != nil {
			return nil, err
		}
		if !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

// readManifest returns the body of a push, of which one byte too many is enough.
func readManifest(r request) ([]byte, error) {
	if r.ContentLength > storage.MaxManifestSize {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are taken", storage.ErrManifestTooLarge, r.ContentLength, storage.MaxManifestSize)
	}
	var content bytes.Buffer
	if r.ContentLength > 0 {
		content.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := content.ReadFrom(io.LimitReader(r.Body, storage.MaxManifestSize+1)); err != nil {
		return nil, fmt.Errorf("%w: the request broke off: %w", storage.ErrManifestInvalid, err)
	}
	return content.Bytes(), nil
}

// deleteManifest is end-9, "Deleting tags" and "Deleting Manifests".
func (h *Handler) deleteManifest(r request) error {
	ref, err := storage.ParseReference(r.reference)
	if err != nil {
		return err
	}
	if ref.Tag != "" {
		err = h.Registry.DeleteTag(r.Context(), r.Repository, ref.Tag)
	} else {
		err = h.Registry.DeleteManifest(r.Context(), r.Repository, ref.Digest)
	}
	if err != nil {
		return err
	}
	h.changed(r, Change{Kind: Deleted, Repository: r.Repository, Tag: ref.Tag, Digest: ref.Digest})
	r.w.WriteHeader(http.StatusAccepted)
	return nil
}
