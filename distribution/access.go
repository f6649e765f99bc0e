package distribution

import (
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/authz"
)

// Authorizer decides what the sender of one request may do. Its errors are told as
// [Handler.Refuse] tells them.
type Authorizer interface {
	// Authorize returns nil if one of some actions may be done to a tag of a repository;
	// see [authz.Policies.Decide] for tags that are none.
	Authorize(actions authz.Action, repository, tag string) error
	// AuthorizeListing returns nil if the sender may ask which repositories there are.
	AuthorizeListing() error
	// Readable reports whether the sender may read a repository, and asks for no more
	// credentials if not.
	Readable(repository string) bool
	// Public reports whether everybody may read a repository.
	Public(repository string) bool
}

// Everything allows everything to everybody.
var Everything Authorizer = everything{}

type everything struct{}

func (everything) Authorize(authz.Action, string, string) error { return nil }
func (everything) AuthorizeListing() error                      { return nil }
func (everything) Readable(string) bool                         { return true }
func (everything) Public(string) bool                           { return true }

// Kind says what a [Change] did.
type Kind string

const (
	Pushed      Kind = "push"      // a manifest, and the tag if there is one
	Overwritten Kind = "overwrite" // a tag by another manifest
	Deleted     Kind = "delete"
)

// Change is what a request changed in a repository.
type Change struct {
	Kind       Kind
	Repository string
	Tag        string        // empty if it is none's
	Digest     digest.Digest // empty if only the tag is known
	Previous   digest.Digest // of an overwritten tag
}

func (h *Handler) changed(r request, c Change) {
	if h.Changed != nil {
		h.Changed(r.Request, c)
	}
}

// authorize decides about a request before anything is read that it is about, so that
// what may not be read is not told from what is not there.
func (r request) authorize() error {
	actions, tag := authz.Read, authz.AnyTag
	switch r.endpoint {
	case endpointPing:
		return nil
	case endpointCatalog:
		return r.access.AuthorizeListing()
	case endpointUploads, endpointUpload:
		// Whoever may push may also look how far an upload is, and give it up.
		actions = authz.Push
	default:
		switch r.Method {
		case http.MethodPut:
			actions = authz.Push
		case http.MethodDelete:
			actions, tag = authz.Delete, "" // by digest it goes from under all its tags
		}
		if r.endpoint == endpointManifest && !strings.Contains(r.reference, ":") {
			tag = r.reference
		}
	}
	return r.access.Authorize(actions, r.Repository, tag)
}

// authorizeTag decides whether the tag of a push may be made, or moved if it exists.
func (r request) authorizeTag(tag string, exists bool) error {
	action := authz.Create
	if exists {
		action = authz.Update
	}
	return r.access.Authorize(action, r.Repository, tag)
}

// readable reports whether a repository may be read, also as where content comes from.
func (r request) readable(repository string) bool { return r.access.Readable(repository) }
