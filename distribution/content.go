package distribution

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// errContent means that net/http could not find its way in the content.
var errContent = errors.New("the content cannot be read")

// serveContent answers with content of the given size, or the ranges of it that are
// asked for, or that the client has it already by the Etag in the header. A whole, or
// the end of a whole, goes to the connection by io.Copy alone, so that the kernel can
// copy a file; every other question is net/http's to answer.
// Ranges that are all beyond its end are errRange, with the size in Content-Range.
func serveContent(w http.ResponseWriter, r *http.Request, content io.ReadSeeker, size int64) error {
	h := w.Header()
	h["Accept-Ranges"] = acceptBytes
	start, status := int64(0), http.StatusOK
	if hasConditions(r.Header) {
		var ok bool
		if start, ok = openRange(r.Header, size); !ok {
			return serveRanges(w, r, content)
		}
		status = http.StatusPartialContent
		h.Set("Content-Range", "bytes "+strconv.FormatInt(start, 10)+"-"+strconv.FormatInt(size-1, 10)+"/"+strconv.FormatInt(size, 10))
		if _, err := content.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	h.Set("Content-Length", strconv.FormatInt(size-start, 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	// Either the content broke off or the client left, to whom it is all the same.
	if sent, _ := io.Copy(w, content); sent < size-start {
		cut()
	}
	return nil
}

// cut ends an answer of which less was sent than was said. Over HTTP/1 net/http would
// close the connection by itself, but over HTTP/2 it would end the stream as if that were
// all.
func cut() { panic(http.ErrAbortHandler) }

// serveRanges has net/http answer, which says nothing of content that breaks off.
func serveRanges(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) error {
	ranges := &rangeWriter{ResponseWriter: w}
	http.ServeContent(ranges, r, "", time.Time{}, content)
	if ranges.err == nil && r.Method != http.MethodHead && ranges.sent < ranges.declared {
		cut()
	}
	return ranges.err
}

// rangeWriter keeps back how net/http refuses a range, which is not in JSON, and counts
// what is sent.
type rangeWriter struct {
	http.ResponseWriter
	err      error
	declared int64
	sent     int64
}

func (w *rangeWriter) WriteHeader(status int) {
	switch status {
	case http.StatusRequestedRangeNotSatisfiable:
		w.err = fmt.Errorf("%w: Range asks for what is not there", errRange)
		return
	case http.StatusOK, http.StatusPartialContent:
		w.declared, _ = strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	case http.StatusInternalServerError:
		w.err = errContent
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *rangeWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return len(p), nil
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

func hasConditions(h http.Header) bool {
	return h["Range"] != nil || h["If-None-Match"] != nil || h["If-Match"] != nil || h["If-Range"] != nil
}

// openRange returns the start of the one range, without an end, that a request asks
// for: what clients send that fetch a blob in parallel or go on with a download.
func openRange(h http.Header, size int64) (start int64, ok bool) {
	if len(h["Range"]) != 1 || h["If-None-Match"] != nil || h["If-Match"] != nil || h["If-Range"] != nil {
		return 0, false
	}
	digits, ok := strings.CutPrefix(h["Range"][0], "bytes=")
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, "-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	start = int64(n)
	return start, err == nil && start < size
}
