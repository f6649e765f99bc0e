package authn

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/storage"
)

func TestWhoEndsWhichKey(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	alice, admin := s.signIn("alice", "writers"), s.signIn("eve", "admins")
	_, own := s.makeKey(alice, KeyRequest{})
	_, admins := s.makeKey(admin, KeyRequest{})
	const notYours, byKey = "no such API key of yours", "only rotate or end itself"
	for _, test := range []struct {
		name    string
		headers func(text string) []string // of a key of alice that is to end
		status  int                        // 0: it ends
		words   string
	}{
		{"the key itself", bearer, 0, ""},
		{"the key as a password", func(text string) []string { return basic("alice", text) }, 0, ""},
		{"a session that it began", func(text string) []string { return []string{"Cookie", s.loginWithKey(text)} }, 0, ""},
		{"its owner", func(string) []string { return []string{"Cookie", alice} }, 0, ""},
		{"an admin", func(string) []string { return []string{"Cookie", admin} }, 0, ""},
		{"an admin's key", func(string) []string { return bearer(admins) }, 404, notYours},
		{"a session of an admin's key", func(string) []string { return []string{"Cookie", s.loginWithKey(admins)} }, 404, notYours},
		{"another key of the owner", func(string) []string { return bearer(own) }, 404, notYours},
		{"a session of another key of the owner", func(string) []string { return []string{"Cookie", s.loginWithKey(own)} }, 404, notYours},
		{"a token for it", func(text string) []string { return bearer(s.fetch(bearer(text), "").Token) }, 403, byKey},
		{"somebody else", func(string) []string { return []string{"Cookie", s.signIn("bob")} }, 404, notYours},
		{"a job", func(string) []string { return bearer(ci.token(t, "eblume/app", time.Minute)) }, 404, notYours},
		{"a job's token", func(string) []string {
			return bearer(s.fetch(bearer(ci.token(t, "eblume/app", time.Minute)), "").Token)
		}, 403, byKey},
		{"anonymous", func(string) []string { return nil }, 401, "sign in first"},
		{"anonymous's token", func(string) []string { return bearer(s.fetch(nil, "").Token) }, 401, "sign in first"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			key, text := s.makeKey(alice, KeyRequest{Label: "of alice"})
			r, caller := s.post(test.headers(text)...)
			err := s.RevokeKey(r, caller, key.ID)
			if test.status != 0 {
				wantKeyError(t, test.name, err, test.status, test.words)
				s.whoHas(bearer(text)...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.wantRefused("revoked", "was revoked on", bearer(text)...)
			if audit := s.audit.String(); !strings.Contains(audit, "key_revoked user="+caller.Name) || !strings.Contains(audit, "key="+key.ID) {
				t.Errorf("audited %s", audit)
			}
		})
	}
}

func TestAnAdminEndsKeysOfTheCommandLineAndNobodyElseDoes(t *testing.T) {
	s := newSite(t)
	key, text := s.addKey(storage.APIKey{Owner: "alice"})
	r, caller := s.post("Cookie", s.signIn("alice", "writers")) // of the same name
	wantKeyError(t, "a person of the owner's name", s.RevokeKey(r, caller, key.ID), http.StatusNotFound, "no such API key of yours")
	s.whoHas(bearer(text)...)
	r, caller = s.post("Cookie", s.signIn("eve", "admins"))
	if err := s.RevokeKey(r, caller, key.ID); err != nil {
		t.Fatal(err)
	}
	s.wantRefused("revoked", "was revoked on", bearer(text)...)
}

func TestKeysThatAreNotThereAreNobodys(t *testing.T) {
	s := newSite(t)
	for _, groups := range []string{"writers", "admins"} {
		r, caller := s.post("Cookie", s.signIn("alice", groups))
		for _, id := range []string{"", "none", "' OR 1=1 --", strings.Repeat("x", 10_000)} {
			wantKeyError(t, groups, s.RevokeKey(r, caller, id), http.StatusNotFound, "no such API key of yours")
		}
	}
}
