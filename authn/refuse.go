package authn

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Refused returns how a client is told that what it sent to prove who it is does not: an
// HTTP status, an error code of the distribution spec, a message and, unless it is 0,
// after which time to try again. It counts and audits what went wrong, and returns later
// if that happened before. Other errors than a [CredentialsError] are the registry's own.
func (s *Site) Refused(r *http.Request, err error) (status int, code, message string, retry time.Duration) {
	var bad *CredentialsError
	if errors.As(err, &bad) {
		s.Failed(bad.Reason)
		if bad.Reason == reasonTokenExpired {
			return http.StatusUnauthorized, "UNAUTHORIZED", bad.Error(), 0
		}
		s.AuditRequest(r, "login_failed", "", "reason", bad.Reason, "error", bad.Error())
		wait, ok := s.Throttle.Failed(s.Address(r), time.Now())
		if !ok {
			return http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many attempts failed; " + bad.Error(), wait
		}
		pause(r.Context(), wait)
		return http.StatusUnauthorized, "UNAUTHORIZED", bad.Error(), 0
	}
	if r.Context().Err() == nil {
		s.Log.ErrorContext(r.Context(), "verifying credentials", "error", err)
	}
	message = "credentials cannot be verified now; the registry's log says why"
	if errors.Is(err, ErrUnavailable) {
		message = err.Error()
	}
	return http.StatusServiceUnavailable, "UNAVAILABLE", message, 10 * time.Second
}

func pause(ctx context.Context, wait time.Duration) {
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// AuditRequest writes an audit line about what a request did, and who sent it.
func (s *Site) AuditRequest(r *http.Request, event, user string, args ...any) {
	s.Audit.InfoContext(r.Context(), event, append([]any{"user", user, "address", s.Address(r)}, args...)...)
}
