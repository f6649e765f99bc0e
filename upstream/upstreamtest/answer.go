package upstreamtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
)

// answer is what is going to be sent. Faults change it before it is.
type answer struct {
	status  int
	header  http.Header
	content []byte // whole, also if a range of it is sent

	challenge bool // a refusal for want of credentials
	ranges    bool // parts may be asked for

	waits   []func(context.Context) // before the header
	rate    int64                   // in bytes a second; 0 is the registry's
	gzip    bool
	chunked bool
	endless bool
	extra   int64                 // added to Content-Length
	stop    int64                 // bytes of the body before halt, or never, or halfway
	halt    func(context.Context) // returns to go on; nil cuts the connection
}

const (
	never   int64 = -1
	halfway int64 = -2
)

// write sends the answer. It tells the status before that is sent, and how many bytes of
// the body before they are, so that whoever has received them finds them told.
func (a *answer) write(w http.ResponseWriter, req *http.Request, answered func(status int), sent func(n int)) {
	a.cutRange(req)
	if a.gzip {
		a.compress()
	}
	if a.stop == halfway {
		a.stop = int64(len(a.content) / 2)
	}
	maps.Copy(w.Header(), a.header)
	declared := int64(len(a.content)) + a.extra
	switch {
	case a.chunked, a.endless:
	case a.status == http.StatusNotModified:
	default:
		w.Header().Set("Content-Length", strconv.FormatInt(max(0, declared), 10))
		if a.extra < 0 {
			a.content = a.content[:max(0, declared)] // net/http sends no more than it declared
		}
	}
	answered(a.status)
	w.WriteHeader(a.status)
	if req.Method == http.MethodHead || a.status == http.StatusNotModified {
		return
	}

	out := newPaced(req.Context(), w, a.rate, sent)
	content := a.content
	if a.stop >= 0 {
		before := min(a.stop, int64(len(content)))
		out.write(content[:before])
		out.flush()
		if a.halt == nil {
			panic(http.ErrAbortHandler)
		}
		a.halt(req.Context())
		content = content[before:]
	}
	if a.chunked {
		out.flush() // else net/http declares the length of what is short
	}
	out.write(content)
	for a.endless {
		out.write(append(a.content, make([]byte, 1<<10)...))
	}
	if a.extra > 0 && !a.chunked {
		out.flush()
		panic(http.ErrAbortHandler)
	}
}

// cutRange leaves what the request's Range asks for. A header that is none, or that asks
// for several ranges, is ignored, as RFC 9110 has it.
func (a *answer) cutRange(req *http.Request) {
	value, ok := strings.CutPrefix(req.Header.Get("Range"), "bytes=")
	if !ok || !a.ranges || a.status != http.StatusOK || req.Method != http.MethodGet {
		return
	}
	if tag := req.Header.Get("If-Range"); tag != "" && tag != a.header.Get("Etag") {
		return
	}
	size := int64(len(a.content))
	first, last, ok := parseRange(value, size)
	if !ok {
		return
	}
	if first > last {
		*a = *refusal(http.StatusRequestedRangeNotSatisfiable, "SIZE_INVALID", "range not satisfiable")
		a.header.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return
	}
	a.status = http.StatusPartialContent
	a.header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, size))
	a.content = a.content[first : last+1]
}

// parseRange returns the bytes that one range asks for. None are there if first is
// behind last.
func parseRange(value string, size int64) (first, last int64, ok bool) {
	from, to, ok := strings.Cut(value, "-")
	if !ok {
		return 0, 0, false
	}
	if from == "" {
		n, err := strconv.ParseInt(to, 10, 64)
		return max(0, size-n), size - 1, err == nil
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	last = size - 1
	if to != "" {
		n, err := strconv.ParseInt(to, 10, 64)
		if err != nil || n < first {
			return 0, 0, false
		}
		last = min(last, n)
	}
	if first >= size {
		return 1, 0, true
	}
	return first, last, true
}

func (a *answer) compress() {
	var buffer bytes.Buffer
	w := gzip.NewWriter(&buffer)
	_, _ = w.Write(a.content) // to memory
	_ = w.Close()
	a.content = buffer.Bytes()
	a.header.Set("Content-Encoding", "gzip")
}
