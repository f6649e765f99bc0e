package authn

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// try sends credentials from an address, and returns the answer's status and how long it
// took.
func (s *site) try(address string, headers ...string) (status int, took time.Duration) {
	s.t.Helper()
	r := newRequest(http.MethodGet, "/v2/", headers...)
	r.RemoteAddr = "[" + address + "]:1234"
	began := time.Now()
	_, err := s.Identify(r)
	if err == nil {
		return http.StatusOK, time.Since(began)
	}
	status, code, message, retry := s.Refused(r, err)
	if message == "" || code == "" || (status == http.StatusTooManyRequests) != (retry > 0) {
		s.t.Errorf("%d %s %q, again after %s", status, code, message, retry)
	}
	return status, time.Since(began)
}

func TestFailuresSlowAnAddressDownButNoValidKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, text := s.addKey(storage.APIKey{})
		wrong := basic("alice", "guess")
		expect := func(when, address string, headers []string, status int, took time.Duration) {
			t.Helper()
			if gotStatus, gotTook := s.try(address, headers...); gotStatus != status || gotTook != took {
				t.Errorf("%s: %d after %s, want %d after %s", when, gotStatus, gotTook, status, took)
			}
		}
		for i := range failuresBurst {
			expect(fmt.Sprint("failure ", i), "192.0.2.1", wrong, 401, 0)
		}
		expect("one more", "192.0.2.1", wrong, 401, time.Second)
		expect("and one", "192.0.2.1", wrong, 401, time.Second)
		expect("a key of the same address", "192.0.2.1", bearer(text), 200, 0)
		expect("a key as a password of the same address", "192.0.2.1", basic("alice", text), 200, 0)
		expect("nothing of the same address", "192.0.2.1", nil, 200, 0)
		expect("another address", "192.0.2.2", wrong, 401, 0)
		time.Sleep(failuresBurst * failuresEvery)
		expect("after a while", "192.0.2.1", wrong, 401, 0)
	})
}

func TestWhoFailsTooOftenAtOnceIsTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, text := s.addKey(storage.APIKey{})
		statuses := make(chan int)
		const attempts = 100
		for range attempts {
			go func() {
				r := newRequest(http.MethodGet, "/v2/")
				status, _, _, _ := (&Site{
					Throttle: s.Throttle, Failed: func(string) {}, Audit: s.Audit, Log: s.Log, Address: s.Address,
				}).Refused(r, badCredentials("unknown", "wrong"))
				statuses <- status
			}()
		}
		synctest.Wait()
		if status, took := s.try("192.0.2.1", bearer(text)...); status != http.StatusOK || took != 0 {
			t.Errorf("meanwhile a valid key is answered %d after %s", status, took)
		}
		counts := map[int]int{}
		for range attempts {
			counts[<-statuses]++
		}
		waited := int(failureWait / failuresEvery)
		if counts[http.StatusUnauthorized] != failuresBurst+waited || counts[http.StatusTooManyRequests] != attempts-failuresBurst-waited {
			t.Errorf("%v", counts)
		}
	})
}

func TestOneNetworkOfIPv6IsOneAddress(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"2001:db8::1", "2001:db8::ffff:2", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
		{"2001:db8::1", "2001:db8::1%eth0", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
		{"", "unknown", true},
		{"", "192.0.2.1", false},
		{"0.0.0.0", "::", false},
	} {
		if same := networkOf(test.a) == networkOf(test.b); same != test.same {
			t.Errorf("%s and %s: %v", test.a, test.b, same)
		}
	}
}

func TestWhatIsRefusedIsCountedAndAudited(t *testing.T) {
	s := newSite(t)
	key, text := s.addKey(storage.APIKey{})
	if err := s.Accounts.RevokeKey(context.Background(), key.ID); err != nil {
		t.Fatal(err)
	}
	for reason, headers := range map[string][]string{
		"malformed": {"Authorization", "x"}, "unknown": bearer(newKey()), "revoked": basic("alice", text),
	} {
		s.audit.Reset()
		if status, _ := s.try("192.0.2.7", headers...); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", reason, status)
		}
		if audit := s.audit.String(); s.failed[reason] != 1 || !strings.Contains(audit, "login_failed") ||
			!strings.Contains(audit, "address=192.0.2.7") || !strings.Contains(audit, "reason="+reason) {
			t.Errorf("%s: counted %d times, audited %s", reason, s.failed[reason], audit)
		}
	}
}

// Every client has some of them, and sends several at once.
func TestExpiredTokensAreCountedButSlowNobodyDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		token := s.fetch(nil, "").Token
		time.Sleep(TokenLifetime)
		const attempts = 3 * failuresBurst
		for range attempts {
			if status, took := s.try("192.0.2.1", bearer(token)...); status != http.StatusUnauthorized || took != 0 {
				t.Fatalf("%d after %s", status, took)
			}
		}
		if s.failed[reasonTokenExpired] != attempts || s.audit.Len() != 0 {
			t.Errorf("counted as %v, audited %s", s.failed, &s.audit)
		}
		if status, took := s.try("192.0.2.1", bearer(newKey())...); status != http.StatusUnauthorized || took != 0 {
			t.Errorf("the first that is wrong: %d after %s", status, took)
		}
	})
}

func TestAClientThatIsGoneIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		began := time.Now()
		for range failuresBurst + 1 {
			s.Refused(newRequest(http.MethodGet, "/v2/").WithContext(ctx), badCredentials("unknown", "wrong"))
		}
		if took := time.Since(began); took != time.Millisecond {
			t.Errorf("after %s", took)
		}
	})
}

func TestTheTokenServiceTellsWhenToTryAgain(t *testing.T) {
	s := newSite(t)
	now := time.Now()
	for range failuresBurst + 10 {
		s.Throttle.Failed("192.0.2.1", now)
	}
	w := httptest.NewRecorder()
	r := newRequest(http.MethodGet, "/auth/token", basic("alice", "guess")...)
	ctx, cancel := context.WithCancel(r.Context())
	cancel() // so that it would not wait
	s.ServeToken(w, r.WithContext(ctx))
	wantTokenError(t, "too many", w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "invalid_grant", "too many attempts failed")
	if w.Header().Get("Retry-After") == "" {
		t.Errorf("%v", w.Header())
	}
}

func TestWhatTheRegistryFailsAtIsNobodysGuess(t *testing.T) {
	s := newSite(t)
	status, code, message, retry := s.Refused(newRequest(http.MethodGet, "/v2/"), errors.New("disk I/O error"))
	if status != http.StatusServiceUnavailable || code != "UNAVAILABLE" || strings.Contains(message, "disk") || retry <= 0 {
		t.Errorf("%d %s %q, again after %s", status, code, message, retry)
	}
	if len(s.failed) != 0 || s.audit.Len() != 0 || !strings.Contains(s.log.String(), "disk I/O error") {
		t.Errorf("counted as %v, audited %s, logged %s", s.failed, &s.audit, &s.log)
	}
}
