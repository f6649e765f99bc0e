package upstreamtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// found is an answer with content.
func found(mediaType string, content []byte) *answer {
	header := http.Header{}
	header.Set("Content-Type", mediaType)
	header.Set("Docker-Distribution-Api-Version", "registry/2.0")
	return &answer{status: http.StatusOK, header: header, content: content, stop: never}
}

// refusal is an answer with an error.
func refusal(status int, code, message string) *answer {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	a := found("application/json", encode(map[string][]entry{"errors": {{code, message}}}))
	a.status = status
	return a
}

// stored is an answer with content that has a digest.
func stored(mediaType string, content []byte, d digest.Digest) *answer {
	a := found(mediaType, content)
	a.header.Set("Docker-Content-Digest", d.String())
	a.header.Set("Etag", strconv.Quote(d.String()))
	return a
}

func (r *Registry) answerManifest(req *http.Request, s settings, repository *contents, reference string) *answer {
	unknown := refusal(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
	d := digest.Digest(reference)
	if !strings.Contains(reference, ":") {
		d = repository.tags[reference]
	}
	manifest, ok := repository.manifests[d]
	if !ok && s.noReferrers {
		manifest, ok = repository.fallback(reference)
		d = manifest.Digest
	}
	if ok && !accepts(req, manifest.MediaType) {
		ok = false // as CNCF distribution says of a manifest that it could not convert
	}
	if s.quota == nil {
		if !ok {
			return unknown
		}
		return manifestAnswer(req, manifest, d)
	}
	if !s.quota.take(req.Method) {
		unknown = refusal(http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
		unknown.header.Set("Retry-After", strconv.Itoa(int(s.quota.retryAfter.Seconds())))
		ok = false
	}
	a := unknown
	if ok {
		a = manifestAnswer(req, manifest, d)
	}
	s.quota.tell(a.header)
	return a
}

func manifestAnswer(req *http.Request, manifest Blob, d digest.Digest) *answer {
	a := stored(manifest.MediaType, manifest.Content, d)
	if slices.Contains(req.Header.Values("If-None-Match"), a.header.Get("Etag")) {
		a.status, a.content = http.StatusNotModified, nil
	}
	return a
}

// accepts reports whether a client takes a media type. One that names none takes all.
func accepts(req *http.Request, mediaType string) bool {
	values := req.Header.Values("Accept")
	for value := range strings.SplitSeq(strings.Join(values, ","), ",") {
		value, _, _ = strings.Cut(value, ";")
		if value = strings.TrimSpace(value); value == mediaType || value == "*/*" || value == "application/*" {
			return true
		}
	}
	return len(values) == 0
}

func (r *Registry) answerBlob(req *http.Request, name string, repository *contents, d digest.Digest) *answer {
	content, ok := repository.blobs[d]
	if !ok {
		return refusal(http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
	}
	if r.cdn != nil && req.Method == http.MethodGet {
		a := redirect(r.cdn.urlAt("localhost") + cdnPath + name + "/" + d.String() + "?signature=valid")
		a.header.Set("Docker-Content-Digest", d.String())
		return a
	}
	return blobAnswer(content, d)
}

func blobAnswer(content []byte, d digest.Digest) *answer {
	a := stored("application/octet-stream", content, d)
	a.header.Set("Accept-Ranges", "bytes")
	a.ranges = true
	return a
}

func redirect(location string) *answer {
	a := found("text/html; charset=utf-8", nil)
	a.status = http.StatusTemporaryRedirect
	a.header.Set("Location", location)
	return a
}

// answerTags lists tags in the order of their names.
func answerTags(req *http.Request, s settings, name string, repository *contents) *answer {
	all := slices.AppendSeq([]string{}, maps.Keys(repository.tags)) // never null in JSON
	slices.Sort(all)
	tags, link := page(req, s, all, func(tag string) string { return tag })
	a := found("application/json", encode(map[string]any{"name": name, "tags": tags}))
	setLink(a, link)
	return a
}

func answerReferrers(req *http.Request, s settings, repository *contents, subject digest.Digest) *answer {
	if s.noReferrers {
		return refusal(http.StatusNotFound, "UNSUPPORTED", "no referrers here")
	}
	all := repository.referrers(subject)
	filter := req.URL.Query().Get("artifactType")
	if filter != "" {
		all = slices.DeleteFunc(all, func(d imagespec.Descriptor) bool { return d.ArtifactType != filter })
	}
	listed, link := page(req, s, all, func(d imagespec.Descriptor) string { return d.Digest.String() })
	a := found(imagespec.MediaTypeImageIndex, encode(referrersIndex(listed)))
	setLink(a, link)
	if filter != "" {
		a.header.Set("OCI-Filters-Applied", "artifactType")
	}
	return a
}

func referrersIndex(referrers []imagespec.Descriptor) imagespec.Index {
	return imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagespec.MediaTypeImageIndex, Manifests: referrers}
}

// referrers returns what refers to subject, in the order of digests.
func (r *contents) referrers(subject digest.Digest) []imagespec.Descriptor {
	referrers := []imagespec.Descriptor{} // never null in JSON
	for d, candidate := range r.manifests {
		var manifest imagespec.Manifest
		if json.Unmarshal(candidate.Content, &manifest) != nil || manifest.Subject == nil || manifest.Subject.Digest != subject {
			continue
		}
		descriptor := imagespec.Descriptor{MediaType: candidate.MediaType, Digest: d, Size: candidate.Size}
		descriptor.ArtifactType = cmp.Or(manifest.ArtifactType, manifest.Config.MediaType)
		descriptor.Annotations = manifest.Annotations
		referrers = append(referrers, descriptor)
	}
	slices.SortFunc(referrers, func(a, b imagespec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return referrers
}

// fallback returns the index that clients keep under the tag sha256-… where there is no
// referrers API.
func (r *contents) fallback(tag string) (Blob, bool) {
	referrers := r.referrers(digest.Digest(strings.Replace(tag, "-", ":", 1)))
	return newBlob(imagespec.MediaTypeImageIndex, encode(referrersIndex(referrers))), len(referrers) > 0
}

// page returns the part of all that a request asks for, and the next one's URL.
func page[T any](req *http.Request, s settings, all []T, name func(T) string) (part []T, link string) {
	query := req.URL.Query()
	if last := query.Get("last"); last != "" {
		all = slices.DeleteFunc(all, func(entry T) bool { return name(entry) <= last })
	}
	size := s.pageSize
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n > 0 && (size == 0 || n < size) {
		size = n
	}
	if size == 0 || len(all) <= size {
		return all, ""
	}
	next := url.Values{"n": {strconv.Itoa(size)}, "last": {name(all[size-1])}}
	if filter := query.Get("artifactType"); filter != "" {
		next.Set("artifactType", filter)
	}
	return all[:size], req.URL.Path + "?" + next.Encode()
}

func setLink(a *answer, next string) {
	if next != "" {
		a.header.Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next))
	}
}
