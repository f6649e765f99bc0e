package upstreamtest

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Match selects requests; the zero value selects all. A request that is refused for want
// of credentials is never selected, since clients send it again with them. The path of
// the token service is /token, those of the CDN begin with /cdn/.
type Match struct {
	Method string // such as GET; empty: any
	Path   string // a regular expression that matches anywhere in the path
	Skip   int    // so many that match come before
	First  int    // only so many of them; 0: all
}

// Fault is something that goes wrong with an answer.
type Fault func(*answer)

// rule is faults for what matches.
type rule struct {
	Match
	path   *regexp.Regexp
	seen   int
	faults []Fault
}

// Fault has things go wrong with the requests that match, until undo is called or Heal.
// All rules that match a request are followed, in their order.
func (r *Registry) Fault(match Match, faults ...Fault) (undo func()) {
	added := &rule{Match: match, path: regexp.MustCompile(match.Path), faults: faults}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, added)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rules = slices.DeleteFunc(r.rules, func(other *rule) bool { return other == added })
	}
}

// Heal undoes all faults.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = nil
}

// faults returns what goes wrong with a request, and counts it.
func (r *Registry) faults(req *http.Request) []Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	var faults []Fault
	for _, rule := range r.rules {
		if rule.Method != "" && rule.Method != req.Method || !rule.path.MatchString(req.URL.Path) {
			continue
		}
		rule.seen++
		if rule.seen > rule.Skip && (rule.First == 0 || rule.seen <= rule.Skip+rule.First) {
			faults = append(faults, rule.faults...)
		}
	}
	return faults
}

// Refuse answers with an error of the given status, such as 500, 503, 404 or, to a HEAD,
// 405. It has no challenge and no Retry-After.
func Refuse(status int) Fault {
	code := strings.ToUpper(strings.ReplaceAll(http.StatusText(status), " ", "_"))
	return replace(func() *answer { return refusal(status, code, "the upstream was told to say so") })
}

// TooManyRequests answers 429 with a Retry-After: seconds or an HTTP date, or none if empty.
func TooManyRequests(retryAfter string) Fault {
	return replace(func() *answer {
		a := refusal(http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
		if retryAfter != "" {
			a.header.Set("Retry-After", retryAfter)
		}
		return a
	})
}

// Answer answers with anything, as a captive portal does with a page of its own.
func Answer(status int, mediaType string, content []byte) Fault {
	return replace(func() *answer {
		a := found(mediaType, content)
		a.status = status
		return a
	})
}

// Schema1 answers with a manifest of Docker's image format of 2014.
func Schema1() Fault {
	return Answer(http.StatusOK, "application/vnd.docker.distribution.manifest.v1+prettyjws",
		[]byte(`{"schemaVersion":1,"name":"old","tag":"latest","architecture":"amd64","fsLayers":[],"history":[],"signatures":[]}`))
}

// RedirectTo answers 307 to a URL.
func RedirectTo(url string) Fault {
	return replace(func() *answer { return redirect(url) })
}

// RedirectLoop answers 307 to the same place.
func RedirectLoop() Fault { return RedirectTo("?again") }

// WaitFor sends nothing, not even the header, for so long.
func WaitFor(d time.Duration) Fault {
	return func(a *answer) { a.waits = append(a.waits, func(ctx context.Context) { wait(ctx, d) }) }
}

// WaitUntil sends nothing, not even the header, until release is closed.
func WaitUntil(release <-chan struct{}) Fault {
	return func(a *answer) { a.waits = append(a.waits, released(release)) }
}

// Stall sends n bytes of the body and then nothing until release is closed, or for ever
// if that is nil.
func Stall(n int64, release <-chan struct{}) Fault {
	return func(a *answer) { a.stop, a.halt = n, released(release) }
}

// Cut closes the connection after n bytes of the body.
func Cut(n int64) Fault {
	return func(a *answer) { a.stop, a.halt = n, nil }
}

// CutHalf closes the connection after half of the bytes that the answer would have.
func CutHalf() Fault { return Cut(halfway) }

// Rate sends the body with so many bytes a second.
func Rate(bytesPerSecond int64) Fault {
	return func(a *answer) { a.rate = bytesPerSecond }
}

// FlipByte changes the byte at an offset of the content, also where a range is asked for
// that has it. An offset behind the end changes nothing.
func FlipByte(offset int64) Fault {
	return func(a *answer) {
		if offset < int64(len(a.content)) {
			a.content = bytes.Clone(a.content)
			a.content[offset] ^= 0xff
		}
	}
}

// ContentLength declares more bytes than there are (the connection is closed behind the
// last one), or with a negative number less (and sends no more than it declared).
func ContentLength(more int64) Fault {
	return func(a *answer) { a.extra = more }
}

// Digest says in Docker-Content-Digest what may not be so, or nothing if d is empty.
func Digest(d string) Fault {
	return Header("Docker-Content-Digest", d)
}

// Header sets a header field, or leaves it out if value is empty.
func Header(name, value string) Fault {
	return func(a *answer) {
		if value == "" {
			a.header.Del(name)
		} else {
			a.header.Set(name, value)
		}
	}
}

// Chunked sends the body without a Content-Length.
func Chunked() Fault { return func(a *answer) { a.chunked = true } }

// Gzip compresses the body, whether or not the client accepts that.
func Gzip() Fault { return func(a *answer) { a.gzip = true } }

// Endless sends the body and then more, until the client goes away.
func Endless() Fault { return func(a *answer) { a.endless = true } }

// IgnoreRange answers 200 with everything where a range is asked for.
func IgnoreRange() Fault { return func(a *answer) { a.ranges = false } }

// replace makes an answer that keeps what other faults have said of its sending.
func replace(with func() *answer) Fault {
	return func(a *answer) {
		replaced := with()
		replaced.waits, replaced.rate, replaced.gzip, replaced.chunked = a.waits, a.rate, a.gzip, a.chunked
		replaced.endless, replaced.extra, replaced.stop, replaced.halt = a.endless, a.extra, a.stop, a.halt
		*a = *replaced
	}
}

func released(release <-chan struct{}) func(context.Context) {
	return func(ctx context.Context) {
		select {
		case <-release:
		case <-ctx.Done():
			panic(http.ErrAbortHandler)
		}
	}
}
