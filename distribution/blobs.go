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
		setBlobHeader(r.w.Header(), d)
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
	setBlobHeader(r.w.Header(), d)
	return serveContent(r.w, r.Request, blob, size)
}

func setBlobHeader(header http.Header, d digest.Digest) {
	header["Content-Type"] = octetStream
	header["Docker-Content-Digest"] = []string{d.String()}
	header["Etag"] = []string{`"` + d.String() + `"`}
	header["Cache-Control"] = immutable
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
	r.w.WriteHeader(http.StatusAccepted)
	return nil
}
