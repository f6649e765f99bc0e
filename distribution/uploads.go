package distribution

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// startUpload is end-4a, end-4b, end-4c and end-11: it mounts a blob, takes one whole,
// or begins an upload ("Pushing blobs", "Mounting a blob from another repository").
func (h *Handler) startUpload(r request) error {
	query := r.URL.Query()
	algorithm, err := storage.ParseAlgorithm(query.Get("digest-algorithm"))
	if err != nil {
		return err
	}
	if mount := query.Get("mount"); mount != "" {
		d, err := storage.ParseDigest(mount)
		if err != nil {
			return err
		}
		err = h.Registry.MountBlob(r.Context(), r.Repository, query.Get("from"), d, r.readable)
		if !errors.Is(err, storage.ErrBlobUnknown) {
			return r.created(d, err)
		}
		algorithm = d.Algorithm()
	} else if query.Has("digest") {
		d, err := storage.ParseDigest(query.Get("digest"))
		if err != nil {
			return err
		}
		if err := h.Registry.CheckQuota(r.Context(), r.Repository, d, max(r.ContentLength, 0)); err != nil {
			return err
		}
		return r.created(d, h.Registry.PushBlob(r.Context(), r.Repository, r.Body, d))
	}
	// Where nothing more may be held nothing need be sent.
	if err := h.Registry.CheckQuota(r.Context(), r.Repository, "", 1); err != nil {
		return err
	}
	id, err := h.Registry.StartUpload(r.Context(), r.Repository, algorithm)
	if err != nil {
		return err
	}
	r.reference = id
	r.setUploadHeader(0)
	r.w.WriteHeader(http.StatusAccepted)
	return nil
}

// created answers that blob d is part of the repository, unless err says otherwise.
func (r request) created(d digest.Digest, err error) error {
	if err != nil {
		return err
	}
	r.w.Header().Set("Location", "/v2/"+r.Repository+"/blobs/"+d.String())
	r.w.Header().Set("Docker-Content-Digest", d.String())
	r.w.WriteHeader(http.StatusCreated)
	return nil
}

// setUploadHeader tells where an upload goes on. Of one without bytes the range is 0-0,
// as clients know it from other registries: the grammar has no empty range.
func (r request) setUploadHeader(size int64) {
	header := r.w.Header()
	header.Set("Location", "/v2/"+r.Repository+"/blobs/uploads/"+r.reference)
	header.Set("Range", "0-"+strconv.FormatInt(max(size-1, 0), 10))
	header.Set("Docker-Upload-UUID", r.reference)
}

// getUpload is end-13, how far an upload is.
func (h *Handler) getUpload(r request) error {
	size, err := h.Registry.UploadSize(r.Context(), r.Repository, r.reference)
	if err != nil {
		return err
	}
	r.setUploadHeader(size)
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// appendUpload is end-5, "Pushing a blob in chunks", also of one chunk without a range.
func (h *Handler) appendUpload(r request) error {
	chunk, done, err := r.chunk()
	if err != nil {
		return err
	}
	defer done()
	size, err := h.Registry.AppendUpload(r.Context(), r.Repository, r.reference, chunk)
	if err == nil || errors.Is(err, storage.ErrRangeInvalid) {
		r.setUploadHeader(size)
	}
	if err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusAccepted)
	return nil
}

// finishUpload is end-6: the last chunk, if there is one, and the digest of the whole.
func (h *Handler) finishUpload(r request) error {
	d, err := storage.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	chunk, done, err := r.chunk()
	if err != nil {
		return err
	}
	defer done()
	size, err := h.Registry.FinishUpload(r.Context(), r.Repository, r.reference, chunk, d)
	if errors.Is(err, storage.ErrRangeInvalid) {
		r.setUploadHeader(size)
	}
	return r.created(d, err)
}

// cancelUpload is end-14, "Cancel a blob upload".
func (h *Handler) cancelUpload(r request) error {
	if err := h.Registry.CancelUpload(r.Context(), r.Repository, r.reference); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// chunk returns the chunk that a request sends; done is to be called when nothing reads
// it any more.
func (r request) chunk() (_ storage.Chunk, done func(), err error) {
	chunk := storage.Chunk{Start: -1, Size: -1, Length: r.ContentLength}
	if value := r.Header.Get("Content-Range"); value != "" {
		first, last, err := parseContentRange(value)
		if err != nil {
			return chunk, nil, err
		}
		chunk.Start, chunk.Size = first, last-first+1
		if r.ContentLength >= 0 && r.ContentLength != chunk.Size {
			return chunk, nil, fmt.Errorf("%w: Content-Range %s is %d bytes but Content-Length is %d", storage.ErrSizeInvalid, value, chunk.Size, r.ContentLength)
		}
	}
	if r.ContentLength == 0 {
		return chunk, func() {}, nil
	}
	b := &body{request: r, control: http.NewResponseController(r.w)}
	chunk.Body = b
	return chunk, b.done, nil
}

// contentRange is the spec's grammar for chunks, which is not HTTP's.
var contentRange = regexp.MustCompile(`^([0-9]+)-([0-9]+)$`)

// parseContentRange returns the offsets of the first and last byte of a chunk, or
// storage.ErrUploadInvalid.
func parseContentRange(value string) (first, last int64, err error) {
	match := contentRange.FindStringSubmatch(value)
	if match == nil {
		return 0, 0, fmt.Errorf("%w: Content-Range %q must be <first>-<last>, as 0-1023", storage.ErrUploadInvalid, value)
	}
	first, firstErr := strconv.ParseInt(match[1], 10, 64)
	last, lastErr := strconv.ParseInt(match[2], 10, 64)
	// The number of bytes must fit too.
	if firstErr != nil || lastErr != nil || last < first || last-first+1 < 1 {
		return 0, 0, fmt.Errorf("%w: Content-Range %q is no range of bytes", storage.ErrUploadInvalid, value)
	}
	return first, last, nil
}

// body is a request's as [storage.Body].
type body struct {
	request request
	control *http.ResponseController

	mu    sync.Mutex
	ended bool // the connection may serve another request by now
}

func (b *body) Read(p []byte) (int, error) { return b.request.Body.Read(p) }

func (b *body) Interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		// Where deadlines are not supported, the one who interrupts waits.
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
	}
}

func (b *body) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}
