package distribution

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

const (
	// maxPage is the most names in one answer to ?n=; a Link leads to the rest.
	maxPage = 10_000
	// listStep is how many names are read at a time for an answer without ?n=.
	listStep = 1_000
	// referrersPage is how many referrers are in one answer.
	referrersPage = 1_000
)

// listTags is end-8a and end-8b, "Listing Tags".
func (h *Handler) listTags(r request) error {
	return h.list(r, `{"name":`+strconv.Quote(r.name)+`,"tags":[`, func(last string, n int) ([]string, error) {
		return r.source.Tags(r.Context(), r.Repository, last, n)
	})
}

// listRepositories is Docker's /v2/_catalog, paged as tags are.
func (h *Handler) listRepositories(r request) error {
	return h.list(r, `{"repositories":[`, func(last string, n int) ([]string, error) {
		return h.readableRepositories(r, last, n)
	})
}

// readableRepositories returns up to n names after last of repositories that may be read.
// Of the others it is not told that they are there.
func (h *Handler) readableRepositories(r request, last string, n int) ([]string, error) {
	var readable []string
	for step := n; len(readable) < n; step = max(n, listStep) {
		names, err := h.Registry.Repositories(r.Context(), last, step)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if r.readable(name) {
				readable = append(readable, name)
			}
		}
		if len(names) < step {
			break
		}
		last = names[len(names)-1]
	}
	return readable[:min(n, len(readable))], nil
}

// list answers with the names that page gives, in an array that begins with prefix in
// an object. Without ?n= that is all of them, read and sent step by step, since many
// clients know no Link.
func (h *Handler) list(r request, prefix string, page func(last string, n int) ([]string, error)) error {
	query := r.URL.Query()
	last := query.Get("last")
	if !query.Has("n") {
		return h.listAll(r, prefix, last, page)
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 {
		return fmt.Errorf("%w: n=%s is not a number of entries", errPaging, query.Get("n"))
	}
	n = min(n, maxPage)
	names, err := page(last, n+1)
	if err != nil {
		return err
	}
	if len(names) > n {
		names = names[:n]
		if n > 0 {
			r.setNext(url.Values{"n": {strconv.Itoa(n)}, "last": {names[n-1]}})
		}
	}
	body := appendNames([]byte(prefix), names)
	return r.writeJSON(append(body, "]}\n"...))
}

func (h *Handler) listAll(r request, prefix, last string, page func(last string, n int) ([]string, error)) error {
	names, err := page(last, listStep)
	if err != nil {
		return err
	}
	body := appendNames([]byte(prefix), names)
	if len(names) < listStep {
		return r.writeJSON(append(body, "]}\n"...))
	}
	r.w.Header()["Content-Type"] = jsonType
	for len(names) > 0 {
		if _, err := r.w.Write(body); err != nil {
			return ignoreClient(err)
		}
		if names, err = page(names[len(names)-1], listStep); err != nil {
			h.abort(r, err)
		}
		body = body[:0]
		if len(names) > 0 {
			body = appendNames(append(body, ','), names)
		}
	}
	_, err = r.w.Write([]byte("]}\n"))
	return ignoreClient(err)
}

// appendNames appends names, which have no character that JSON escapes.
func appendNames(body []byte, names []string) []byte {
	for i, name := range names {
		if i > 0 {
			body = append(body, ',')
		}
		body = strconv.AppendQuote(body, name)
	}
	return body
}

// listReferrers is end-12a and end-12b, "Listing Referrers".
func (h *Handler) listReferrers(r request) error {
	subject, err := storage.ParseDigest(r.reference)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	artifactType := query.Get("artifactType")
	n := referrersPage
	if query.Has("n") {
		if n, err = strconv.Atoi(query.Get("n")); err != nil || n < 1 {
			return fmt.Errorf("%w: n=%s is not a number of entries", errPaging, query.Get("n"))
		}
		n = min(n, referrersPage)
	}
	found, err := r.source.Referrers(r.Context(), r.Repository, subject, artifactType, digest.Digest(query.Get("last")), n+1)
	if err != nil {
		return err
	}
	next := url.Values{}
	if query.Has("n") {
		next.Set("n", strconv.Itoa(n))
	}
	if artifactType != "" {
		r.w.Header().Set("OCI-Filters-Applied", "artifactType")
		next.Set("artifactType", artifactType)
	}
	if len(found) > n {
		found = found[:n]
		next.Set("last", found[n-1].Digest.String())
		r.setNext(next)
	}
	body, err := json.Marshal(imagespec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: imagespec.MediaTypeImageIndex,
		Manifests: append([]imagespec.Descriptor{}, found...), // an array, never null
	})
	if err != nil {
		return err
	}
	r.w.Header().Set("Content-Type", imagespec.MediaTypeImageIndex)
	return r.write(body)
}

// setNext leads to the next page (RFC 8288).
func (r request) setNext(query url.Values) {
	r.w.Header().Set("Link", "<"+r.URL.EscapedPath()+"?"+query.Encode()+`>; rel="next"`)
}

func (r request) writeJSON(body []byte) error {
	r.w.Header()["Content-Type"] = jsonType
	return r.write(body)
}

func (r request) write(body []byte) error {
	r.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	r.w.WriteHeader(http.StatusOK)
	_, err := r.w.Write(body)
	return ignoreClient(err)
}
