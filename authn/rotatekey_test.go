package authn

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/storage"
)

// rotate gives a key a successor by itself.
func (s *site) rotate(text string) (storage.APIKey, string) {
	s.t.Helper()
	r, caller := s.post(bearer(text)...)
	successor, next, err := s.RotateKey(r, caller, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return successor, next
}

func TestAKeyRotatesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		key, text := s.makeKey(s.signIn("alice", "writers"), KeyRequest{
			Label: "ci", Scopes: []string{"read:team/**"}, Expires: time.Now().Add(30 * 24 * time.Hour),
		})
		time.Sleep(20 * 24 * time.Hour)
		successor, next := s.rotate(text)
		if successor.ID == key.ID || next == text || successor.Label != "ci" || strings.Join(successor.Scopes, " ") != "read:team/**" ||
			successor.Lifetime != key.Lifetime || !successor.Expires.Equal(time.Now().Add(key.Lifetime)) {
			t.Errorf("%+v", successor)
		}
		caller := s.whoHas(basic("alice", next)...)
		if caller.Key.ID != successor.ID || caller.Key.Person == 0 || strings.Join(caller.Groups, " ") != "writers" || len(caller.Scopes) != 1 {
			t.Errorf("%+v", caller)
		}
		if audit := s.audit.String(); !strings.Contains(audit, "key_rotated user=alice") || !strings.Contains(audit, successor.ID) || strings.Contains(audit, next) {
			t.Errorf("audited %s", audit)
		}
		time.Sleep(s.Keys.Grace - time.Second)
		s.whoHas(bearer(text)...)
		time.Sleep(time.Second)
		s.wantRefused("expired", "expired on", bearer(text)...)
		s.whoHas(bearer(next)...)
	})
}

func TestRotatingInGraceProlongsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, text := s.makeKey(s.signIn("alice"), KeyRequest{})
		_, lost := s.rotate(text)
		time.Sleep(s.Keys.Grace / 2)
		_, used := s.rotate(text) // the answer of the first was lost
		s.wantRefused("revoked", "was revoked on", bearer(lost)...)
		s.whoHas(bearer(used)...)
		s.rotate(text)
		s.whoHas(bearer(used)...) // one that works somewhere stays
		time.Sleep(s.Keys.Grace / 2)
		s.wantRefused("expired", "expired on", bearer(text)...)
	})
}

func TestAKeyThatEndsInTheGraceEndsThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		_, text := s.makeKey(s.signIn("alice"), KeyRequest{Expires: time.Now().Add(time.Hour)})
		s.rotate(text)
		time.Sleep(time.Hour)
		s.wantRefused("expired", "expired on", bearer(text)...)
	})
}

func TestARotatedKeyLastsNoLongerThanKeysMay(t *testing.T) {
	s := newSite(t)
	_, text := s.makeKey(s.signIn("alice"), KeyRequest{})
	s.Keys.MaxLifetime = time.Hour
	successor, _ := s.rotate(text)
	if successor.Lifetime != time.Hour || !successor.Expires.Equal(successor.Created.Add(time.Hour)) {
		t.Errorf("%+v", successor)
	}
}

func TestWhichKeyIsRotatedByWhom(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	alice, eve := s.signIn("alice"), s.signIn("eve", "admins")
	key, text := s.makeKey(alice, KeyRequest{})
	other, _ := s.makeKey(alice, KeyRequest{})
	jobToken := ci.token(t, "eblume/app", time.Minute)
	r, caller := s.post(bearer(jobToken)...)
	jobs, jobKey, err := s.MakeKey(r, caller, KeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		headers []string
		id      string
		status  int // 0: it is rotated
		words   string
	}{
		{"a key itself", bearer(text), key.ID, 0, ""},
		{"a session that the key began", []string{"Cookie", s.loginWithKey(text)}, key.ID, 0, ""},
		{"its owner", []string{"Cookie", alice}, key.ID, 0, ""},
		{"another key of the owner", bearer(text), other.ID, http.StatusForbidden, "it can only rotate or end itself"},
		{"another, by a session that the key began", []string{"Cookie", s.loginWithKey(text)}, other.ID, http.StatusForbidden, "only rotate or end itself"},
		{"a token for the key", bearer(s.fetch(bearer(text), "").Token), key.ID, http.StatusForbidden, "only rotate or end itself"},
		{"a token for the key, which it does not name", bearer(s.fetch(bearer(text), "").Token), "", http.StatusForbidden, "only rotate or end itself"},
		{"somebody else", []string{"Cookie", s.signIn("bob")}, key.ID, http.StatusNotFound, "no such API key of yours"},
		{"an admin, who would get another's key", []string{"Cookie", eve}, key.ID, http.StatusNotFound, "no such API key of yours"},
		{"anonymous", nil, key.ID, http.StatusUnauthorized, "sign in first"},
		{"a job", bearer(jobToken), jobs.ID, http.StatusUnauthorized, "sign in first"},
		{"a job's key", bearer(jobKey), jobs.ID, http.StatusForbidden, "it would outlive the job"},
		{"no such key", []string{"Cookie", alice}, "none", http.StatusNotFound, "no such API key of yours"},
		{"no key", []string{"Cookie", alice}, "", http.StatusNotFound, "no such API key of yours"},
	} {
		r, caller := s.post(test.headers...)
		_, next, err := s.RotateKey(r, caller, test.id)
		if test.status != 0 {
			wantKeyError(t, test.name, err, test.status, test.words)
		}
		if (next != "") != (test.status == 0) || (err == nil) != (test.status == 0) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestAKeyThatEndedIsNotRotated(t *testing.T) {
	s := newSite(t)
	cookie := s.signIn("alice")
	key, text := s.makeKey(cookie, KeyRequest{})
	byKey, keyCaller := s.post(bearer(text)...)
	if err := s.Accounts.RevokeKey(context.Background(), key.ID); err != nil {
		t.Fatal(err)
	}
	r, caller := s.post("Cookie", cookie)
	_, next, err := s.RotateKey(r, caller, key.ID)
	wantKeyError(t, "by its owner", err, http.StatusConflict, "has ended; make a new one")
	if next != "" {
		t.Error("a successor is told")
	}
	_, next, err = s.RotateKey(byKey, keyCaller, "")
	wantKeyError(t, "by a request that was under way", err, http.StatusConflict, "has ended; make a new one")
	if next != "" {
		t.Error("a successor is told")
	}
}
