package distribution

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/eblume/caddy-registry/storage"
)

// endpoint is one of the distribution spec's ("Endpoints").
type endpoint int

const (
	endpointPing endpoint = iota
	endpointCatalog
	endpointManifest
	endpointBlob
	endpointUploads // where uploads begin
	endpointUpload
	endpointTags
	endpointReferrers
)

// target is what a path names.
type target struct {
	endpoint   endpoint
	repository string
	// reference is the last part of the path: a tag, a digest or an upload's id.
	reference string
}

// parsePath returns what a path, in the escaped form of [url.URL.EscapedPath], names.
// It is read from the end, since repositories may be called blobs or tags too. Errors
// wrap storage.ErrNameInvalid or errNoEndpoint; the repository is set with the former.
func parsePath(path string) (target, error) {
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok {
		return target{}, errNoEndpoint
	}
	switch rest {
	case "", "/":
		return target{endpoint: endpointPing}, nil
	case "/_catalog":
		return target{endpoint: endpointCatalog}, nil
	}
	rest, ok = strings.CutPrefix(rest, "/")
	if !ok {
		return target{}, errNoEndpoint
	}
	t, ok := cutEndpoint(rest)
	if !ok {
		return target{}, fmt.Errorf("%w as %s", errNoEndpoint, path)
	}
	// Only references may be escaped, as some clients do with a digest's colon. In a name
	// an escape can only hide what is not allowed there.
	reference, err := url.PathUnescape(t.reference)
	if err != nil {
		return target{}, fmt.Errorf("%w as %s", errNoEndpoint, path)
	}
	t.reference = reference
	return t, storage.CheckName(t.repository)
}

func cutEndpoint(path string) (target, bool) {
	if name, ok := strings.CutSuffix(path, "/tags/list"); ok {
		return target{endpoint: endpointTags, repository: name}, true
	}
	if name, ok := strings.CutSuffix(strings.TrimSuffix(path, "/"), "/blobs/uploads"); ok {
		return target{endpoint: endpointUploads, repository: name}, true
	}
	parent, reference, ok := cutLast(path)
	if !ok || reference == "" {
		return target{}, false
	}
	name, kind, ok := cutLast(parent)
	if !ok {
		return target{}, false
	}
	switch kind {
	case "manifests":
		return target{endpointManifest, name, reference}, true
	case "blobs":
		return target{endpointBlob, name, reference}, true
	case "referrers":
		return target{endpointReferrers, name, reference}, true
	case "uploads":
		name, ok := strings.CutSuffix(name, "/blobs")
		return target{endpointUpload, name, reference}, ok
	}
	return target{}, false
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
