package authn

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

func TestASessionIsOfThePersonAsTheyAreNow(t *testing.T) {
	s := newSite(t)
	cookie := s.signIn("alice", "writers")
	caller := s.whoHas("Cookie", cookie)
	if caller.Name != "alice" || strings.Join(caller.Groups, " ") != "writers" || caller.Session == nil || caller.Session.Person == nil ||
		caller.Key != nil || caller.Scopes != nil {
		t.Errorf("%+v", caller)
	}
	s.signIn("alice", "admins")
	if caller := s.whoHas("Cookie", cookie); strings.Join(caller.Groups, " ") != "admins" {
		t.Errorf("groups %v", caller.Groups)
	}
}

func TestASessionThatHasEndedIsAnonymous(t *testing.T) {
	secretOf := func(cookie string) [32]byte {
		_, secret, _ := strings.Cut(cookie, "=")
		return sha256.Sum256([]byte(secret))
	}
	for _, test := range []struct {
		name string
		end  func(s *site, cookie string, person int64) error
	}{
		{"it ended", func(s *site, cookie string, _ int64) error {
			return s.Accounts.EndSession(context.Background(), secretOf(cookie))
		}},
		{"the person was ended", func(s *site, _ string, person int64) error {
			_, err := s.Accounts.EndPerson(context.Background(), person, time.Time{})
			return err
		}},
		{"twelve hours passed", func(*site, string, int64) error {
			time.Sleep(sessionLifetime)
			return nil
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				cookie := s.signIn("alice")
				person := s.whoHas("Cookie", cookie).Session.Person.ID
				if err := test.end(s, cookie, person); err != nil {
					t.Fatal(err)
				}
				wantAnonymous(t, s.whoHas("Cookie", cookie))
				if len(s.failed) != 0 || strings.Contains(s.audit.String(), "login_failed") {
					t.Errorf("counted as %v, audited %s", s.failed, &s.audit)
				}
			})
		})
	}
}

func wantAnonymous(t *testing.T, caller *Caller) {
	t.Helper()
	if caller == nil || caller.Identity != nil || caller.Session != nil || caller.Key != nil || caller.Token != nil || caller.Job != nil {
		t.Errorf("%+v is not anonymous", caller)
	}
}

func TestCookiesThatAreNoSessionAreAnonymous(t *testing.T) {
	s := newSite(t)
	session := s.signIn("alice")
	for name, cookie := range map[string]string{
		"empty":                  "registry_session=",
		"unknown":                "registry_session=" + newSecret(),
		"another":                "theme=dark",
		"cut":                    session[:len(session)-1],
		"of an encrypted page":   "__Host-" + session,
		"malformed":              "=;;=",
		"a key instead of one":   "registry_session=" + newKey(),
		"a login instead of one": "registry_login_abc=x",
	} {
		t.Run(name, func(t *testing.T) { wantAnonymous(t, s.whoHas("Cookie", cookie)) })
	}
	r := newRequest(http.MethodGet, "https://registry.test/v2/", "Cookie", session)
	wantAnonymous(t, s.identify(r)) // a page that is not encrypted may have set it
	r.Header.Set("Cookie", "__Host-"+session)
	if caller := s.identify(r); caller.Identity == nil {
		t.Error("the cookie of an encrypted page is not taken there")
	}
	wantAnonymous(t, s.whoHas())
}

func TestASessionBegunWithAKeyEndsWithIt(t *testing.T) {
	for name, end := range map[string]func(s *site, id string) error{
		"revoked": func(s *site, id string) error { return s.Accounts.RevokeKey(context.Background(), id) },
		"expired": func(*site, string) error { time.Sleep(time.Hour); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				key, text := s.addKey(storage.APIKey{Lifetime: time.Hour, Scopes: []string{"read:team/**"}})
				cookie := s.loginWithKey(text)
				caller := s.whoHas("Cookie", cookie)
				if caller.Name != "alice" || caller.Key == nil || caller.Session == nil || caller.Session.Person != nil || len(caller.Scopes) != 1 {
					t.Errorf("%+v", caller)
				}
				if caller.Session.Expires.After(key.Expires) {
					t.Errorf("the session lasts until %s, the key until %s", caller.Session.Expires, key.Expires)
				}
				if err := end(s, key.ID); err != nil {
					t.Fatal(err)
				}
				wantAnonymous(t, s.whoHas("Cookie", cookie))
			})
		})
	}
}

func TestAnAdminIsAPersonAndNoKey(t *testing.T) {
	s := newSite(t)
	cookie := s.signIn("eve", "admins")
	_, text := s.makeKey(cookie, KeyRequest{})
	for name, test := range map[string]struct {
		caller *Caller
		want   bool
	}{
		"signed in":                  {s.whoHas("Cookie", cookie), true},
		"by a key":                   {s.whoHas(bearer(text)...), false},
		"by a session of a key":      {s.whoHas("Cookie", s.loginWithKey(text)), false},
		"somebody else":              {s.whoHas("Cookie", s.signIn("alice", "writers")), false},
		"anonymous":                  {anonymous, false},
		"an anonymous one's token":   {&Caller{Token: new(Token)}, false},
		"a person of such a name":    {s.whoHas("Cookie", s.signIn("admins")), false},
		"a group of another's spell": {s.whoHas("Cookie", s.signIn("mallory", "Admins")), false},
	} {
		if s.IsAdmin(test.caller) != test.want {
			t.Errorf("%s: %v", name, !test.want)
		}
	}
}

func TestOtherSitesPagesChangeNothing(t *testing.T) {
	s := newSite(t)
	_, text := s.addKey(storage.APIKey{})
	for _, test := range []struct {
		name    string
		headers []string
		refused bool
	}{
		{"another site's", []string{"Cookie", s.signIn("alice"), "Sec-Fetch-Site", "cross-site"}, true},
		{"another of the same domain", []string{"Cookie", s.signIn("alice"), "Sec-Fetch-Site", "same-site"}, true},
		{"another origin", []string{"Cookie", s.signIn("alice"), "Origin", "https://evil.test"}, true},
		{"this site's", []string{"Cookie", s.signIn("alice"), "Sec-Fetch-Site", "same-origin"}, false},
		{"no browser's", []string{"Cookie", s.signIn("alice")}, false},
		{"with a key, which no page can make a browser send", append(bearer(text), "Sec-Fetch-Site", "cross-site"), false},
	} {
		r := newRequest(http.MethodPost, "/auth/apikey", test.headers...)
		if err := s.identify(r).SameOrigin(r); (err != nil) != test.refused {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
