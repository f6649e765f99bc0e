package authn

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/storage"
)

func TestATokenIsWhatItsKeyIsNow(t *testing.T) {
	s := newSite(t)
	key, text := s.makeKey(s.signIn("alice", "admins"), KeyRequest{Scopes: []string{"read:team/**"}})
	token := s.fetch(bearer(text), "repository:team/app:pull").Token
	s.signIn("alice", "writers")
	caller := s.whoHas(bearer(token)...)
	if caller.Name != "alice" || strings.Join(caller.Groups, " ") != "writers" || caller.Key == nil || caller.Key.ID != key.ID || len(caller.Scopes) != 1 ||
		caller.Token == nil || caller.Session != nil {
		t.Errorf("%+v", caller)
	}
	if s.IsAdmin(caller) {
		t.Error("a token is an admin")
	}
}

func TestATokenEndsWithItsKey(t *testing.T) {
	for _, test := range []struct {
		name, reason, words string
		end                 func(s *site, key storage.APIKey) error
	}{
		{"revoked", "revoked", "the API key was revoked on", func(s *site, key storage.APIKey) error {
			return s.Accounts.RevokeKey(context.Background(), key.ID)
		}},
		{"the person was ended", "revoked", "the API key was revoked on", func(s *site, key storage.APIKey) error {
			_, err := s.Accounts.EndPerson(context.Background(), key.Person, time.Time{})
			return err
		}},
		{"expired", "expired", "the API key expired on", func(*site, storage.APIKey) error {
			time.Sleep(time.Minute)
			return nil
		}},
		{"gone", "revoked", "the API key of this token is gone", func(s *site, key storage.APIKey) error {
			return s.Accounts.ExpireAccounts(context.Background(), time.Now().Add(day365))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				key, text := s.makeKey(s.signIn("alice", "writers"), KeyRequest{Expires: time.Now().Add(time.Minute)})
				token := s.fetch(bearer(text), "repository:public/app:pull").Token
				if caller := s.whoHas(bearer(token)...); caller.Name != "alice" {
					t.Fatalf("%+v", caller)
				}
				if err := test.end(s, key); err != nil {
					t.Fatal(err)
				}
				s.wantRefused(test.reason, test.words, bearer(token)...)
			})
		})
	}
}

func TestAnExpiredTokenSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		token := s.fetch(nil, "repository:public/app:pull").Token
		if caller := s.whoHas(bearer(token)...); caller.Identity != nil || caller.Token == nil {
			t.Errorf("%+v", caller)
		}
		time.Sleep(TokenLifetime)
		s.wantRefused(reasonTokenExpired, "the token has expired: fetch another", bearer(token)...)
	})
}

func TestATokenOfAnotherRegistryIsRefused(t *testing.T) {
	s, other := newSite(t), newSite(t)
	s.wantRefused("token", "was not made by this registry: fetch another", bearer(other.fetch(nil, "").Token)...)
	s.wantRefused("unknown", "neither an API key nor a token", basic("alice", s.fetch(nil, "").Token)...)
}

func TestAJobsTokenEndsWhenItsWorkloadIdentityChanges(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	token := s.fetch(bearer(ci.token(t, "eblume/app", time.Hour)), "repository:public/app:push").Token
	caller := s.whoHas(bearer(token)...)
	if caller.Name != "ci:eblume/app" || len(caller.Groups) != 1 || caller.Job != s.Jobs[0] || caller.Token == nil || caller.Key != nil {
		t.Errorf("%+v", caller)
	}
	s.Jobs = []*job.Issuer{ci.issuer(t, "other", "eblume/*"), ci.issuer(t, "forgejo", "eblume/*")}
	if caller := s.whoHas(bearer(token)...); caller.Job != s.Jobs[1] {
		t.Errorf("with the same configuration: %+v", caller)
	}
	for name, jobs := range ci.changed(t) {
		t.Run(name, func(t *testing.T) {
			s.Jobs = jobs
			s.wantRefused("revoked", "the workload identity forgejo is not what it was", bearer(token)...)
		})
	}
}

func TestAJobsKeyEndsWithItsWorkloadIdentity(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	r := newRequest("POST", "/auth/apikey", bearer(ci.token(t, "eblume/app", time.Minute))...)
	_, text, err := s.MakeKey(r, s.identify(r), KeyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if caller := s.whoHas(basic("ci:eblume/app", text)...); caller.Name != "ci:eblume/app" || caller.Key == nil || caller.Job != nil {
		t.Errorf("%+v", caller)
	}
	for name, jobs := range ci.changed(t) {
		t.Run(name, func(t *testing.T) {
			s.Jobs = jobs
			s.wantRefused("revoked", "made by a job of forgejo, which is not here or not what it was", bearer(text)...)
		})
	}
}

func TestATokenLastsNoLongerThanTheJobsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ci := newSite(t), newCI(t)
		s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
		for lifetime, want := range map[time.Duration]time.Duration{
			time.Hour: TokenLifetime, TokenLifetime: TokenLifetime, 100 * time.Second: 100 * time.Second, time.Second: time.Second,
		} {
			answer := s.fetch(bearer(ci.token(t, "eblume/app", lifetime)), "repository:public/app:push")
			token, err := s.Tokens.Verify(context.Background(), answer.Token, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if answer.ExpiresIn != int(want.Seconds()) || !token.Expiry.Time().Equal(time.Now().Add(want)) {
				t.Errorf("for %s: it expires in %d s, at %s", lifetime, answer.ExpiresIn, token.Expiry.Time())
			}
		}
		ends := ci.token(t, "eblume/app", 10*time.Second)
		time.Sleep(9*time.Second + 700*time.Millisecond)
		if answer := s.fetch(bearer(ends), ""); answer.ExpiresIn != 1 {
			t.Errorf("for what is left of a second: %d s", answer.ExpiresIn)
		}
		token := s.fetch(bearer(ends), "").Token
		time.Sleep(300 * time.Millisecond)
		s.wantRefused(reasonTokenExpired, "has expired", bearer(token)...)
	})
}

// changed returns what may become of a workload identity forgejo.
func (c *ci) changed(t testing.TB) map[string][]*job.Issuer {
	return map[string][]*job.Issuer{
		"others are let in":   {c.issuer(t, "forgejo", "eblume/other")},
		"it has another name": {c.issuer(t, "renamed", "eblume/*")},
		"it is gone":          nil,
	}
}
