// Package distribution is the OCI distribution API as an http.Handler over a
// [storage.Registry]: distribution-spec 1.1.1 and what its main branch adds.
package distribution

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/eblume/caddy-registry/storage"
)

// Handler answers everything under /v2/. Its fields are not to be changed while it serves.
type Handler struct {
	Registry *storage.Registry
	// Sparse tells what pushed manifests may name without its being there.
	Sparse storage.Sparse
	// Log takes what is wrong with the registry, not with requests.
	Log *slog.Logger
	// Changed, if set, is told what a request changed, before that is answered.
	Changed func(*http.Request, Change)
}

// request is one request on its way through a Handler.
type request struct {
	*http.Request
	Target
	source Source
	access Authorizer
	w      http.ResponseWriter
}

// respond answers a request, or returns why not before anything is written.
type respond func(h *Handler, r request) error

// endpoints tells who answers which method.
var endpoints = map[endpoint]map[string]respond{
	endpointPing:    {http.MethodGet: (*Handler).ping},
	endpointCatalog: {http.MethodGet: (*Handler).listRepositories},
	endpointTags:    {http.MethodGet: (*Handler).listTags},
	endpointManifest: {
		http.MethodGet:    (*Handler).getManifest,
		http.MethodPut:    (*Handler).putManifest,
		http.MethodDelete: (*Handler).deleteManifest,
	},
	endpointReferrers: {http.MethodGet: (*Handler).listReferrers},
	endpointBlob: {
		http.MethodGet:    (*Handler).getBlob,
		http.MethodDelete: (*Handler).deleteBlob,
	},
	endpointUploads: {http.MethodPost: (*Handler).startUpload},
	endpointUpload: {
		http.MethodGet:    (*Handler).getUpload,
		http.MethodPatch:  (*Handler).appendUpload,
		http.MethodPut:    (*Handler).finishUpload,
		http.MethodDelete: (*Handler).cancelUpload,
	},
}

// Header values that many answers share. They are put into headers as they are, with
// keys in canonical form.
var (
	apiVersion = []string{"registry/2.0"}
	noSniff    = []string{"nosniff"}
	// sandbox keeps what somebody pushed from running as a page of this origin.
	sandbox     = []string{"sandbox"}
	jsonType    = []string{"application/json"}
	octetStream = []string{"application/octet-stream"}
	acceptBytes = []string{"bytes"}
	// Content never changes: its name is its digest. What not everybody may read no cache
	// may keep that answers others too.
	noStore          = []string{"no-store"}
	immutable        = []string{"public, max-age=31536000, immutable"}
	immutablePrivate = []string{"private, max-age=31536000, immutable"}
)

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, err := ParsePath(r.URL.EscapedPath())
	if IsPush(r.Method) && foreignHost(t.Repository) != "" {
		err = CheckPush(t.Repository)
	}
	if err != nil {
		h.Refuse(w, r, err)
		return
	}
	h.Serve(w, r, t, h.Registry, Everything)
}

// Serve answers a request whose path was read before, its repository perhaps mapped to
// another, with reads from source, if access allows it.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, t Target, source Source, access Authorizer) {
	setCommonHeader(w.Header())
	if err := h.serve(request{r, t, source, access, w}); err != nil {
		writeError(h.Log, w, r, err)
	}
}

// Refuse answers with what err means to a client: one of package storage's errors, a
// [Refusal], or what [ParsePath] returned. Others are logged instead of told.
func (h *Handler) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	setCommonHeader(w.Header())
	writeError(h.Log, w, r, err)
}

func setCommonHeader(header http.Header) {
	header["Docker-Distribution-Api-Version"] = apiVersion
	header["X-Content-Type-Options"] = noSniff
	header["Content-Security-Policy"] = sandbox
}

func (h *Handler) serve(r request) error {
	t, w := r.Target, r.w
	methods := endpoints[t.endpoint]
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	respond, ok := methods[method]
	if !ok {
		allowed := slices.Sorted(maps.Keys(methods))
		if methods[http.MethodGet] != nil {
			allowed = append(allowed, http.MethodHead)
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return fmt.Errorf("%w: %s, use one of %s", errMethod, r.Method, strings.Join(allowed, ", "))
	}
	if err := r.authorize(); err != nil {
		return err
	}
	return respond(h, r)
}

// CheckPush refuses names that are another registry's, which take no push.
func CheckPush(repository string) error {
	if host := foreignHost(repository); host != "" {
		return fmt.Errorf("%w: %q is a registry's host, push to a repository whose name begins otherwise", errForeignName, host)
	}
	return nil
}

// IsPush reports whether a method adds content. DELETE takes away, which names that take
// no push allow too.
func IsPush(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

func (h *Handler) ping(r request) error {
	r.w.Header()["Content-Type"] = jsonType
	_, err := r.w.Write([]byte("{}"))
	return ignoreClient(err)
}

// ignoreClient drops an error of writing to a client, whom nothing can be told any more.
func ignoreClient(error) error { return nil }

// abort ends an answer that cannot be completed: the connection is cut, so that the
// client does not take what it has for the whole.
func (h *Handler) abort(r request, err error) {
	if !errors.Is(err, r.Context().Err()) {
		h.Log.ErrorContext(r.Context(), "answer broke off", "path", r.URL.Path, "error", err)
	}
	panic(http.ErrAbortHandler)
}
