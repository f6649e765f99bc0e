package authn

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"time"

	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/storage"
)

// sessionLifetime is how long a browser stays signed in.
const sessionLifetime = 12 * time.Hour

// sessionCookie returns the name of the cookie that has a session's secret. The prefix
// makes browsers refuse one that another host or an unencrypted page sets.
func (s *Site) sessionCookie(r *http.Request) string { return s.cookieName(r, "registry_session") }

func (s *Site) cookieName(r *http.Request, name string) string {
	if s.Secure(r) {
		return "__Host-" + name
	}
	return name
}

func (s *Site) setCookie(w http.ResponseWriter, r *http.Request, name, value string, lifetime time.Duration) {
	cookie := &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(lifetime.Seconds()),
		HttpOnly: true, Secure: s.Secure(r), SameSite: http.SameSiteLaxMode,
	}
	if value == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

func (s *Site) identifySession(r *http.Request) (*Caller, error) {
	cookie, err := r.Cookie(s.sessionCookie(r))
	if err != nil {
		return anonymous, nil
	}
	session, err := s.Accounts.Session(r.Context(), sha256.Sum256([]byte(cookie.Value)), time.Now())
	if errors.Is(err, storage.ErrSessionUnknown) {
		return anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	if session.Key != nil {
		caller, err := s.keyCaller(session.Key)
		if err != nil {
			return anonymous, nil
		}
		caller.Session = session
		return caller, nil
	}
	person := session.Person
	if !s.knowsPeopleOf(person.Version) {
		return anonymous, nil
	}
	return &Caller{Identity: &authz.Identity{Name: person.Name, Groups: person.Groups}, Session: session}, nil
}

// begin gives a browser a new session, with a secret that nobody can have known before,
// and ends the one that it has.
func (s *Site) begin(w http.ResponseWriter, r *http.Request, start func(hash [32]byte, session storage.Session) error) error {
	if err := s.end(r); err != nil {
		return err
	}
	secret := newSecret()
	now := time.Now()
	if err := start(sha256.Sum256([]byte(secret)), storage.Session{Created: now, Expires: now.Add(sessionLifetime)}); err != nil {
		return err
	}
	s.setCookie(w, r, s.sessionCookie(r), secret, sessionLifetime)
	return nil
}

// end ends the session that a browser has, if any.
func (s *Site) end(r *http.Request) error {
	cookie, err := r.Cookie(s.sessionCookie(r))
	if err != nil {
		return nil
	}
	return s.Accounts.EndSession(r.Context(), sha256.Sum256([]byte(cookie.Value)))
}

// SameOrigin reports whether a request that changes something may be believed to be what
// a browser's user wants: another site's page can make it send one too. It matters only
// where the session proves who asks.
func (c *Caller) SameOrigin(r *http.Request) error {
	if c.Session == nil {
		return nil
	}
	return CrossOrigin.Check(r)
}

// CrossOrigin refuses what another site makes a browser send.
var CrossOrigin = http.NewCrossOriginProtection()
