package authn

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/storage"
)

func wantKeyError(t *testing.T, name string, err error, status int, words string) {
	t.Helper()
	var refused *KeyError
	if !errors.As(err, &refused) || refused.Status != status || !strings.Contains(refused.Message, words) {
		t.Errorf("%s: error %v, want %d with %q", name, err, status, words)
	}
}

// post returns a request that is to change something, and who sent it.
func (s *site) post(headers ...string) (*http.Request, *Caller) {
	s.t.Helper()
	r := newRequest(http.MethodPost, "/auth/apikey", headers...)
	return r, s.identify(r)
}

func TestAPersonMakesAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		cookie := s.signIn("alice", "writers")
		key, text := s.makeKey(cookie, KeyRequest{Label: " ci ", Scopes: []string{"read:team/**", "", "create:team/app"}})
		want := time.Now().Add(day90)
		if key.ID == "" || key.Label != "ci" || key.Owner != "alice" || strings.Join(key.Scopes, " ") != "read:team/** create:team/app" || key.Job != "" ||
			!key.Expires.Equal(want) || key.Lifetime != day90 || !key.Created.Equal(time.Now()) {
			t.Errorf("%+v", key)
		}
		caller := s.whoHas(basic("alice", text)...)
		if caller.Key.ID != key.ID || caller.Key.Person == 0 || len(caller.Scopes) != 2 || !caller.Key.Expires.Equal(want) {
			t.Errorf("%+v", caller.Key)
		}
		if audit := s.audit.String(); !strings.Contains(audit, "key_made user=alice") || !strings.Contains(audit, key.ID) || strings.Contains(audit, text) {
			t.Errorf("audited %s", audit)
		}
	})
}

func TestAJobMakesAKeyOfAnHourAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ci := newSite(t), newCI(t)
		s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
		r, caller := s.post(bearer(ci.token(t, "eblume/app", time.Minute))...)
		key, text, err := s.MakeKey(r, caller, KeyRequest{})
		if err != nil || key.Owner != "ci:eblume/app" || key.Job != "forgejo" || key.Person != 0 || !key.Expires.Equal(time.Now().Add(time.Hour)) {
			t.Fatalf("%+v, %v", key, err)
		}
		time.Sleep(10 * time.Minute) // the job's own token has ended by now
		if caller := s.whoHas(basic("ci:eblume/app", text)...); strings.Join(caller.Groups, " ") != "writers" || s.IsAdmin(caller) {
			t.Errorf("%+v", caller)
		}
		r, caller = s.post(bearer(ci.token(t, "eblume/app", time.Minute))...)
		_, _, err = s.MakeKey(r, caller, KeyRequest{Expires: time.Now().Add(time.Hour + time.Second)})
		wantKeyError(t, "longer", err, http.StatusBadRequest, "too late")
		if _, _, err = s.MakeKey(r, caller, KeyRequest{Expires: time.Now().Add(time.Hour)}); err != nil {
			t.Error(err)
		}
		s.Keys.Lifetime = time.Minute
		if key, _, err = s.MakeKey(r, caller, KeyRequest{}); err != nil || !key.Expires.Equal(time.Now().Add(time.Minute)) {
			t.Errorf("where keys are short: %s, %v", key.Expires, err)
		}
	})
}

// A stolen key must not become others, or more, and a token is no better than a key.
func TestWhoMakesAndListsNoKeys(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	cookie := s.signIn("eve", "admins")
	_, text := s.makeKey(cookie, KeyRequest{})
	_, scoped := s.makeKey(cookie, KeyRequest{Scopes: []string{"read:public/**"}})
	jobToken := ci.token(t, "eblume/app", time.Minute)
	r, caller := s.post(bearer(jobToken)...)
	_, jobKey, err := s.MakeKey(r, caller, KeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const byKey, notSignedIn = "an API key makes and lists no keys", "sign in first"
	for _, test := range []struct {
		name    string
		headers []string
		status  int
		words   string
	}{
		{"anonymous", nil, http.StatusUnauthorized, notSignedIn},
		{"anonymous's token", bearer(s.fetch(nil, "").Token), http.StatusUnauthorized, notSignedIn},
		{"a key", bearer(text), http.StatusForbidden, byKey},
		{"a key as a password", basic("eve", text), http.StatusForbidden, byKey},
		{"a key that is limited", bearer(scoped), http.StatusForbidden, byKey},
		{"a session that a key began", []string{"Cookie", s.loginWithKey(text)}, http.StatusForbidden, byKey},
		{"a token for a key", bearer(s.fetch(bearer(text), "").Token), http.StatusForbidden, byKey},
		{"a key of a job", bearer(jobKey), http.StatusForbidden, byKey},
		{"a session that a key of a job began", []string{"Cookie", s.loginWithKey(jobKey)}, http.StatusForbidden, byKey},
		{"a token for a job", bearer(s.fetch(bearer(jobToken), "").Token), http.StatusUnauthorized, notSignedIn},
		{"a key, and the session of its owner", append(bearer(text), "Cookie", cookie), http.StatusForbidden, byKey},
	} {
		r, caller := s.post(test.headers...)
		key, made, err := s.MakeKey(r, caller, KeyRequest{})
		wantKeyError(t, test.name, err, test.status, test.words)
		if made != "" {
			t.Errorf("%s: %+v is told", test.name, key)
		}
		keys, err := s.ListKeys(r.Context(), caller)
		wantKeyError(t, test.name, err, test.status, test.words)
		if keys != nil {
			t.Errorf("%s: %+v are listed", test.name, keys)
		}
	}
	if keys, err := s.Accounts.Keys(context.Background()); err != nil || len(keys) != 3 {
		t.Errorf("there are %d keys, %v", len(keys), err)
	}
	r, caller = s.post(bearer(jobToken)...)
	_, err = s.ListKeys(r.Context(), caller)
	wantKeyError(t, "a job", err, http.StatusUnauthorized, notSignedIn)
}

func TestASessionThatEndsMeanwhileMakesNoKey(t *testing.T) {
	s := newSite(t)
	r, caller := s.post("Cookie", s.signIn("alice"))
	if _, err := s.Accounts.EndPerson(context.Background(), caller.Session.Person.ID, time.Time{}); err != nil {
		t.Fatal(err)
	}
	_, text, err := s.MakeKey(r, caller, KeyRequest{})
	wantKeyError(t, "after the person was ended", err, http.StatusUnauthorized, "sign in first")
	if text != "" || strings.Contains(s.audit.String(), "key_made") {
		t.Errorf("%q is told, audited %s", text, &s.audit)
	}
}

func TestWhenAKeyMayEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		cookie, now := s.signIn("alice"), time.Now()
		for _, test := range []struct {
			name    string
			expires time.Time
			words   string // empty: it may
		}{
			{"now", now, "the expiration date 2000-01-01 00:00 UTC has passed"},
			{"before", now.Add(-time.Second), "has passed"},
			{"long before", time.Unix(0, 0), "has passed"},
			{"after", now.Add(time.Second), ""},
			{"the last that is taken", now.Add(day365), ""},
			{"too late", now.Add(day365 + 1), "is too late: the last that is taken is 2000-12-31 00:00 UTC"},
			{"ages later", time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), "is too late"},
			{"in another zone", now.Add(time.Hour).In(time.FixedZone("", 7200)), ""},
		} {
			r, caller := s.post("Cookie", cookie)
			key, _, err := s.MakeKey(r, caller, KeyRequest{Expires: test.expires})
			if test.words != "" {
				wantKeyError(t, test.name, err, http.StatusBadRequest, test.words)
			} else if err != nil || !key.Expires.Equal(test.expires) || key.Lifetime != test.expires.Sub(now) {
				t.Errorf("%s: %+v, %v", test.name, key, err)
			}
		}
	})
}

func TestLabelsAndScopesThatAreNotTaken(t *testing.T) {
	s := newSite(t)
	cookie := s.signIn("alice")
	many := make([]string, maxKeyScopes+1)
	for i := range many {
		many[i] = "read:public/**"
	}
	for _, test := range []struct {
		name   string
		wanted KeyRequest
		words  string // empty: it is taken
	}{
		{"as long as may be", KeyRequest{Label: strings.Repeat("é", maxLabel)}, ""},
		{"too long", KeyRequest{Label: strings.Repeat("é", maxLabel+1)}, "at most 100 characters"},
		{"a line break", KeyRequest{Label: "a\nb"}, "control character"},
		{"no text", KeyRequest{Label: "\xff"}, "the label"},
		{"as many as may be", KeyRequest{Scopes: many[1:]}, ""},
		{"too many", KeyRequest{Scopes: many}, "51 scopes are too many, at most 50"},
		{"empty ones", KeyRequest{Scopes: []string{"", ""}}, ""},
		{"an unknown action", KeyRequest{Scopes: []string{"pull:a"}}, `unknown action "pull"`},
		{"no glob", KeyRequest{Scopes: []string{"read:team/**", "read"}}, "must be an action and a glob"},
		{"a bad glob", KeyRequest{Scopes: []string{"read:[a"}}, "not closed"},
	} {
		r, caller := s.post("Cookie", cookie)
		_, text, err := s.MakeKey(r, caller, test.wanted)
		if test.words != "" {
			wantKeyError(t, test.name, err, http.StatusBadRequest, test.words)
		} else if err != nil || text == "" {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestKeysOfTheCommandLine(t *testing.T) {
	s := newSite(t)
	key, text := s.addKey(storage.APIKey{Owner: "robot", Groups: []string{"admins"}, Label: "l", Lifetime: time.Hour})
	if caller := s.whoHas(basic("robot", text)...); caller.Key.ID != key.ID || strings.Join(caller.Groups, " ") != "admins" || s.IsAdmin(caller) {
		t.Errorf("%+v", caller)
	}
	for _, user := range []string{"", " ", " a", "a ", "a:b", "a\nb", "a\x00", strings.Repeat("a", 256)} {
		_, _, err := AddKey(context.Background(), s.Accounts, storage.APIKey{Owner: user, Lifetime: time.Hour})
		wantKeyError(t, user, err, http.StatusBadRequest, "must be 1 to 255 printable characters without a colon")
	}
	_, _, err := AddKey(context.Background(), s.Accounts, storage.APIKey{Owner: "a", Scopes: []string{"x"}, Lifetime: time.Hour})
	wantKeyError(t, "a bad scope", err, http.StatusBadRequest, "must be an action and a glob")
}
