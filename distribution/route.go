package distribution

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/eblume/caddy-registry/storage"
)

// endpoint is one of the distribution spec's ("Endpoints").
type endpoint int

const (
	endpointNone endpoint = iota
	endpointPing
	endpointCatalog
	endpointManifest
	endpointBlob
	endpointUploads // where uploads begin
	endpointUpload
	endpointTags
	endpointReferrers
)

// Target is what a request's path names.
type Target struct {
	// Repository is empty if the path is of none.
	Repository string
	name       string // the repository's, as the path has it
	endpoint   endpoint
	// reference is the last part of the path: a tag, a digest or an upload's id.
	reference string
}

// Name is the repository as the path has it, whatever Repository was mapped to.
func (t Target) Name() string { return t.name }

// IsUpload reports whether the path is of an upload, or of where they begin.
func (t Target) IsUpload() bool { return t.endpoint == endpointUploads || t.endpoint == endpointUpload }

// IsBlob reports whether the path is of a blob.
func (t Target) IsBlob() bool { return t.endpoint == endpointBlob }

// Operation says in a word or two what a request of some method is for: manifest, blob,
// tags and so on are read, and what changes something says so, as manifest_push does.
func (t Target) Operation(method string) string {
	operation := operations[t.endpoint]
	switch {
	case t.endpoint == endpointManifest && method == http.MethodPut:
		return "manifest_push"
	case t.endpoint == endpointManifest && method == http.MethodDelete:
		return "manifest_delete"
	case t.endpoint == endpointBlob && method == http.MethodDelete:
		return "blob_delete"
	}
	return operation
}

var operations = map[endpoint]string{
	endpointNone:      "none",
	endpointPing:      "ping",
	endpointCatalog:   "catalog",
	endpointManifest:  "manifest",
	endpointBlob:      "blob",
	endpointUploads:   "upload",
	endpointUpload:    "upload",
	endpointTags:      "tags",
	endpointReferrers: "referrers",
}

// ParsePath returns what a path, in the escaped form of [url.URL.EscapedPath], names.
// It is read from the end, since repositories may be called blobs or tags too. Errors
// are [Refuse]'s to tell; the repository is set with one that wraps
// storage.ErrNameInvalid.
func ParsePath(path string) (Target, error) {
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok {
		return Target{}, errNoEndpoint
	}
	switch rest {
	case "", "/":
		return Target{endpoint: endpointPing}, nil
	case "/_catalog":
		return Target{endpoint: endpointCatalog}, nil
	}
	rest, ok = strings.CutPrefix(rest, "/")
	if !ok {
		return Target{}, errNoEndpoint
	}
	t, ok := cutEndpoint(rest)
	if !ok {
		return Target{}, fmt.Errorf("%w as %s", errNoEndpoint, path)
	}
	// Only references may be escaped, as some clients do with a digest's colon. In a name
	// an escape can only hide what is not allowed there.
	reference, err := url.PathUnescape(t.reference)
	if err != nil {
		return Target{}, fmt.Errorf("%w as %s", errNoEndpoint, path)
	}
	t.reference, t.name = reference, t.Repository
	return t, storage.CheckName(t.Repository)
}

func cutEndpoint(path string) (Target, bool) {
	if name, ok := strings.CutSuffix(path, "/tags/list"); ok {
		return Target{endpoint: endpointTags, Repository: name}, true
	}
	if name, ok := strings.CutSuffix(strings.TrimSuffix(path, "/"), "/blobs/uploads"); ok {
		return Target{endpoint: endpointUploads, Repository: name}, true
	}
	parent, reference, ok := cutLast(path)
	if !ok || reference == "" {
		return Target{}, false
	}
	name, kind, ok := cutLast(parent)
	if !ok {
		return Target{}, false
	}
	switch kind {
	case "manifests":
		return Target{Repository: name, endpoint: endpointManifest, reference: reference}, true
	case "blobs":
		return Target{Repository: name, endpoint: endpointBlob, reference: reference}, true
	case "referrers":
		return Target{Repository: name, endpoint: endpointReferrers, reference: reference}, true
	case "uploads":
		name, ok := strings.CutSuffix(name, "/blobs")
		return Target{Repository: name, endpoint: endpointUpload, reference: reference}, ok
	}
	return Target{}, false
}

func cutLast(path string) (before, after string, found bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return path, "", false
	}
	return path[:i], path[i+1:], true
}

// host is a name with a dot, or any with a port.
var host = regexp.MustCompile(`^[a-zA-Z0-9_-]+((\.[a-zA-Z0-9_-]+)+(:[0-9]+)?|:[0-9]+)$`)

// foreignHost returns the host that a repository's name begins with, or "". It is
// another registry's, whose images may be cached here under it.
func foreignHost(repository string) string {
	first, _, _ := strings.Cut(repository, "/")
	if !host.MatchString(first) {
		return ""
	}
	return first
}
