package distribution

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// Errors of requests that never reach storage.
var (
	errMethod      = errors.New("method is not allowed here")
	errNoEndpoint  = errors.New("the distribution API has no such endpoint")
	errForeignName = errors.New("name is another registry's")
	errPaging      = errors.New("paging parameter invalid")
	errRange       = errors.New("range not satisfiable")
)

// refusal is how an error is told: an HTTP status and one of the distribution spec's
// error codes ("Error Codes").
type refusal struct {
	err    error
	status int
	code   string
}

var refusals = []refusal{
	{storage.ErrQuota, http.StatusForbidden, "DENIED"},
	{storage.ErrBlobUnknown, http.StatusNotFound, "BLOB_UNKNOWN"},
	{storage.ErrBlobReferenced, http.StatusMethodNotAllowed, "UNSUPPORTED"},
	{storage.ErrUploadUnknown, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN"},
	{storage.ErrUploadInvalid, http.StatusBadRequest, "BLOB_UPLOAD_INVALID"},
	{storage.ErrRangeInvalid, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID"},
	{storage.ErrDigestInvalid, http.StatusBadRequest, "DIGEST_INVALID"},
	{storage.ErrSizeInvalid, http.StatusBadRequest, "SIZE_INVALID"},
	{storage.ErrManifestUnknown, http.StatusNotFound, "MANIFEST_UNKNOWN"},
	{storage.ErrManifestInvalid, http.StatusBadRequest, "MANIFEST_INVALID"},
	{storage.ErrManifestTooLarge, http.StatusRequestEntityTooLarge, "SIZE_INVALID"},
	{storage.ErrManifestBlobUnknown, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN"},
	{storage.ErrNameInvalid, http.StatusBadRequest, "NAME_INVALID"},
	{storage.ErrNameUnknown, http.StatusNotFound, "NAME_UNKNOWN"},
	{storage.ErrTagInvalid, http.StatusBadRequest, "MANIFEST_INVALID"},
	{storage.ErrCopy, http.StatusMethodNotAllowed, "UNSUPPORTED"},
	{storage.ErrNotCopy, http.StatusNotFound, "NAME_UNKNOWN"},
	{errMethod, http.StatusMethodNotAllowed, "UNSUPPORTED"},
	{errNoEndpoint, http.StatusNotFound, "UNSUPPORTED"},
	{errForeignName, http.StatusMethodNotAllowed, "UNSUPPORTED"},
	{errRange, http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID"},
	{errPaging, http.StatusBadRequest, "UNSUPPORTED"},
}

// Refusal is an error that says itself how it is told.
type Refusal struct {
	Status     int           // of HTTP
	Code       string        // one of the spec's, "Error Codes"
	RetryAfter time.Duration // when to ask again; 0: nothing is said
	Challenge  string        // how to prove who one is (RFC 9110, section 11.6.1), or empty
	Err        error         // whose words are told
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

// errorBody is the body of a refusal.
type errorBody struct {
	Errors []errorEntry `json:"errors"`
}

type errorEntry struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// writeError answers with what err means to a client. Errors that it can do nothing
// about are logged instead of told.
func writeError(log *slog.Logger, w http.ResponseWriter, r *http.Request, err error) {
	h := w.Header()
	var told *Refusal
	status, code, message := http.StatusInternalServerError, "UNKNOWN", "the registry failed to answer; its log says why"
	if errors.Is(err, storage.ErrFull) {
		status, code, message = http.StatusInsufficientStorage, "DENIED", storage.ErrFull.Error()
		log.ErrorContext(r.Context(), "storage is full", "error", err)
	} else if errors.Is(err, storage.ErrMoving) {
		status, code, message = http.StatusServiceUnavailable, "UNAVAILABLE", storage.ErrMoving.Error()
		h["Retry-After"] = retryAfter
	} else if errors.Is(err, storage.ErrUnavailable) {
		status, code, message = http.StatusServiceUnavailable, "UNAVAILABLE", storage.ErrUnavailable.Error()+": try again"
		h["Retry-After"] = retryAfter
		log.ErrorContext(r.Context(), "storage cannot be reached", "error", err)
	} else if errors.As(err, &told) {
		status, code, message = told.Status, told.Code, told.Error()
		if told.Challenge != "" {
			h["Www-Authenticate"] = []string{told.Challenge}
		}
		if told.RetryAfter > 0 {
			h["Retry-After"] = []string{strconv.FormatInt(int64(math.Ceil(told.RetryAfter.Seconds())), 10)}
		}
	} else if known := find(err); known != nil {
		status, code, message = known.status, known.code, err.Error()
	} else if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		status = statusClientGone
	} else {
		log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	body, err := json.Marshal(errorBody{[]errorEntry{{code, strings.ReplaceAll(message, "\n", "; ")}}})
	if err != nil {
		panic(err) // two strings
	}
	for _, name := range []string{"Etag", "Cache-Control", "Docker-Content-Digest", "Content-Length"} {
		h.Del(name) // meant for the content that is not sent
	}
	h["Content-Type"] = jsonType
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone
	}
}

// statusClientGone is what the access log says of a client that has left, as that of nginx
// does: nobody gets it.
const statusClientGone = 499

// retryAfter is when to try again what could not be done for want of storage, in seconds.
var retryAfter = []string{"5"}

func find(err error) *refusal {
	for i := range refusals {
		if errors.Is(err, refusals[i].err) {
			return &refusals[i]
		}
	}
	return nil
}
