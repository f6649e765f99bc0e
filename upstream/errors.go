package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// What an upstream can fail with. An error of a [Client] wraps exactly one of these and
// says in words what happened, or it is the error of the caller's own context.
var (
	// ErrNotFound is the upstream's own word, never a guess: each of its URLs said 404.
	ErrNotFound = errors.New("not found upstream")
	// ErrDenied is a 401 or 403 of the registry or of its token service.
	ErrDenied = errors.New("denied by the upstream")
	// ErrRateLimited comes as a [RateLimitError].
	ErrRateLimited = errors.New("the upstream limits how often it is asked")
	// ErrUnavailable means that it cannot be reached, or failed with a 5xx.
	ErrUnavailable = errors.New("the upstream is unavailable")
	// ErrTimeout means that it did not answer, or stopped in the middle of an answer.
	ErrTimeout = errors.New("the upstream did not answer in time")
	// ErrInvalid means that it answered what cannot be used, such as wrong bytes.
	ErrInvalid = errors.New("the upstream's answer is invalid")
)

var kinds = []error{ErrNotFound, ErrDenied, ErrRateLimited, ErrUnavailable, ErrTimeout, ErrInvalid}

// kindOf returns the one of this package's sentinels that err wraps, or nil.
func kindOf(err error) error {
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return nil
}

// isOutage reports whether err means that the upstream is not there, for now.
func isOutage(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrTimeout)
}

// failure is an error of one endpoint. It is a type of its own so that it is found in
// what net/http wraps it in, whose text shows whole URLs: those of redirects are often
// signed, and let whoever reads them in.
type failure struct {
	kind     error
	upstream string
	message  string
}

func (f *failure) Error() string { return fmt.Sprintf("%v: %s: %s", f.kind, f.upstream, f.message) }
func (f *failure) Unwrap() error { return f.kind }

// RateLimitError is ErrRateLimited with the time after which the upstream may be asked
// again.
type RateLimitError struct {
	RetryAfter time.Duration
	failure    failure
}

func (e *RateLimitError) Error() string {
	return fmt.Sprintf("%v; it may be asked again in %v", e.failure.Error(), e.RetryAfter.Round(time.Second))
}

// Unwrap returns ErrRateLimited.
func (e *RateLimitError) Unwrap() error { return ErrRateLimited }

func (e *endpoint) fail(kind error, format string, args ...any) error {
	return &failure{kind, e.upstream, fmt.Sprintf(format, args...)}
}

func (e *endpoint) rateLimited(left time.Duration, message string) error {
	return &RateLimitError{left, failure{ErrRateLimited, e.upstream, message}}
}

// explain returns what an error means that came of a request or of reading its answer.
// ctx is the caller's: once it has ended, that is the reason.
func (e *endpoint) explain(ctx context.Context, err error) error {
	var known *failure
	var limited *RateLimitError
	var token *errcode.ErrorResponse
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &known):
		return known
	case errors.As(err, &limited):
		return limited
	case errors.As(err, &token):
		return e.tokenRefused(token)
	case errors.Is(err, context.DeadlineExceeded): // not the caller's, so that of the fetch of a token
		return e.fail(ErrTimeout, "%s: its token service took longer than %v", e.base.Host, tokenTimeout)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return e.fail(ErrDenied, "%s asks for a user name and a password, and no credentials are configured for it", e.base.Host)
	}
	return e.fail(ErrInvalid, "%s: %v", e.base.Host, err)
}

// tokenRefused returns what it means that the token service gave no token.
func (e *endpoint) tokenRefused(answer *errcode.ErrorResponse) error {
	who, said := "its token service "+answer.URL.Host, ""
	if len(answer.Errors) > 0 {
		said = printable(answer.Errors.Error())
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return e.fail(ErrDenied, "%s; are the credentials right?", answered(who, answer.StatusCode, said))
	case http.StatusNotFound: // of the service, not of the content
		return e.fail(ErrInvalid, "%s", answered(who, answer.StatusCode, said))
	}
	return e.status(who, answer.StatusCode, said)
}

// refused returns what it means that the answer does not have the status hoped for.
func (e *endpoint) refused(resp *http.Response) error {
	var answer struct {
		Errors []struct{ Code, Message string }
	}
	said := ""
	if json.NewDecoder(io.LimitReader(resp.Body, 8<<10)).Decode(&answer) == nil && len(answer.Errors) > 0 {
		said = printable(answer.Errors[0].Code + ": " + answer.Errors[0].Message)
	}
	who := resp.Request.URL.Host
	if who != e.base.Host {
		who += ", to which " + e.base.Host + " leads,"
	}
	return e.status(who, resp.StatusCode, said)
}

func (e *endpoint) status(who string, status int, said string) error {
	message := answered(who, status, said)
	switch {
	case status == http.StatusNotFound:
		return e.fail(ErrNotFound, "%s", message)
	case status == http.StatusUnauthorized:
		return e.fail(ErrDenied, "%s, which Docker Hub and others also say of what does not exist", message)
	case status == http.StatusForbidden, status == http.StatusUnavailableForLegalReasons:
		return e.fail(ErrDenied, "%s", message)
	case status == http.StatusTooManyRequests:
		return e.rateLimited(e.pauseLeft(), message)
	case status >= 500:
		return e.fail(ErrUnavailable, "%s", message)
	}
	return e.fail(ErrInvalid, "%s", message)
}

func answered(who string, status int, said string) string {
	message := fmt.Sprintf("%s answered %d %s", who, status, http.StatusText(status))
	if said != "" {
		message += " (" + said + ")"
	}
	return message
}

// printable returns what an upstream says in a form and length that fits into a log line
// and an error message.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	if runes := []rune(s); len(runes) > 200 {
		s = string(runes[:200]) + "…"
	}
	return strings.TrimSpace(s)
}

const (
	defaultPause = time.Minute // after a 429 that does not say how long
	maxPause     = time.Hour
)

// parseRetryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds or a date.
func parseRetryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	pause := defaultPause
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		pause = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		pause = time.Until(date)
	}
	return min(max(pause, time.Second), maxPause)
}

// mostTelling returns the error to answer with when every URL failed. Only if all say
// 404 is it a 404: a mirror may lack what an origin that is down has.
func mostTelling(errs []error) error {
	var told error
	for _, err := range errs {
		if told == nil || weight(err) >= weight(told) {
			told = err
		}
	}
	var others []string
	for _, err := range errs {
		if err != told {
			others = append(others, err.Error())
		}
	}
	if len(others) == 0 {
		return told
	}
	return fmt.Errorf("%w (another URL: %s)", told, strings.Join(others, "; "))
}

func weight(err error) int {
	switch kindOf(err) {
	case ErrNotFound:
		return 0
	case ErrDenied:
		return 1
	}
	return 2
}
