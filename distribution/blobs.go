package distribution

import (
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// getBlob is end-2, "Pulling blobs".
func (h *Handler) getBlob(r request) error {
	d, err := storage.ParseDigest(r.reference)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead && !hasConditions(r.Header) {
		size, err := r.source.StatBlob(r.Context(), r.Repository, d)
		if err != nil {
			return err
		}
		r.setBlobHeader(d)
		r.w.Header()["Accept-Ranges"] = acceptBytes
		r.w.Header()["Content-Length"] = []string{strconv.FormatInt(size, 10)}
		r.w.WriteHeader(http.StatusOK)
		return nil
	}
	blob, size, err := r.source.OpenBlob(r.Context(), r.Repository, d)
	if err != nil {
		return err
	}
	defer blob.Close()
	r.setBlobHeader(d)
	if elsewhere, ok := blob.(storage.Redirectable); ok && r.Method == http.MethodGet {
		url, err := elsewhere.URL(r.Context())
		if err != nil {
			return err
		}
		if url != "" {
			return r.redirect(url)
		}
	}
	return serveContent(r.w, r.Request, blob, size)
}

// redirect has a client get a blob elsewhere. Whoever has the URL can, so that nobody is to
// keep it.
func (r request) redirect(url string) error {
	header := r.w.Header()
	header["Cache-Control"] = noStore
	header["Location"] = []string{url}
	header["Content-Length"] = []string{"0"}
	r.w.WriteHeader(http.StatusTemporaryRedirect)
	return nil
}

func (r request) setBlobHeader(d digest.Digest) {
	header := r.w.Header()
	header["Content-Type"] = octetStream
	header["Docker-Content-Digest"] = []string{d.String()}
	header["Etag"] = []string{`"` + d.String() + `"`}
	header["Cache-Control"] = immutable
	if !r.access.Public(r.Repository) {
		header["Cache-Control"] = immutablePrivate
	}
}

// deleteBlob is end-10, "Deleting Blobs".
func (h *Handler) deleteBlob(r request) error {
	d, err := storage.ParseDigest(r.reference)
	if err != nil {
		return err
	}
	if err := h.Registry.DeleteBlob(r.Context(), r.Repository, d); err != nil {
		return err
	}
	h.changed(r, Change{Kind: Deleted, Repository: r.Repository, Digest: d})
	r.w.WriteHeader(http.StatusAccepted)
	return nil
}
