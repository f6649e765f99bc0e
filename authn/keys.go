package authn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/storage"
)

const (
	// jobKeyLifetime is the longest that a key lasts which a job's token makes.
	jobKeyLifetime = time.Hour
	maxLabel       = 100 // characters
	maxKeyScopes   = 50
)

// KeyRequest is what somebody asks of a new API key.
type KeyRequest struct {
	Label string
	// Expires is when it is to end; zero: after the usual time.
	Expires time.Time
	// Scopes limit it, see [authz.ParseScope]; none: it may do what its owner may.
	Scopes []string
}

// KeyError is why a key is not made, rotated or revoked.
type KeyError struct {
	Status  int // of HTTP
	Message string
}

func (e *KeyError) Error() string { return e.Message }

func keyError(status int, format string, args ...any) error {
	return &KeyError{status, fmt.Sprintf(format, args...)}
}

var (
	errNotSignedIn error = &KeyError{http.StatusUnauthorized, "sign in first: only a person who is signed in, or a job by its own token, makes API keys"}
	errKeyByKey    error = &KeyError{http.StatusForbidden, "an API key makes and lists no keys; it can only rotate or end itself"}
	errNotYours    error = &KeyError{http.StatusNotFound, "there is no such API key of yours"}
)

// person returns the id of the person who is signed in, and nobody else.
func (c *Caller) person() (int64, error) {
	switch {
	case c.Key != nil:
		return 0, errKeyByKey
	case c.Session == nil || c.Session.Person == nil:
		return 0, errNotSignedIn
	}
	return c.Session.Person.ID, nil
}

// MakeKey makes an API key of a person who is signed in, or of a job that sent its own
// token. The text is nowhere else. Refusals are a [KeyError].
func (s *Site) MakeKey(r *http.Request, caller *Caller, wanted KeyRequest) (key storage.APIKey, text string, err error) {
	now := time.Now()
	key = storage.APIKey{Label: strings.TrimSpace(wanted.Label), Scopes: wanted.Scopes}
	longest := s.Keys.MaxLifetime
	switch {
	case caller.Key == nil && caller.Token == nil && caller.Job != nil:
		key.Job, key.Version, key.Owner, key.Groups = caller.Job.Name(), caller.Job.Version(), caller.Name, caller.Groups
		longest = min(longest, jobKeyLifetime)
	default:
		if key.Person, err = caller.person(); err != nil {
			return key, "", err
		}
		key.Owner, key.Groups = caller.Name, caller.Groups
	}
	if err := checkKey(&key); err != nil {
		return key, "", err
	}
	if key.Expires, err = expiry(wanted.Expires, now, min(s.Keys.Lifetime, longest), longest); err != nil {
		return key, "", err
	}
	key.Created, key.Lifetime = now, key.Expires.Sub(now).Round(time.Second)
	text, err = addKey(r.Context(), s.Accounts, &key)
	if errors.Is(err, storage.ErrSessionUnknown) { // it ended while this request was under way
		return key, "", errNotSignedIn
	}
	if err == nil {
		s.AuditRequest(r, "key_made", key.Owner, "key", key.ID, "label", key.Label, "scopes", key.Scopes, "expires", key.Expires)
	}
	return key, text, err
}

// AddKey makes an API key whose owner and groups stand in it, without asking who wants
// it: on the command line. Refusals are a [KeyError].
func AddKey(ctx context.Context, accounts *storage.Accounts, key storage.APIKey) (storage.APIKey, string, error) {
	if err := CheckUser(key.Owner); err != nil {
		return key, "", keyError(http.StatusBadRequest, "user %q: %s", key.Owner, err)
	}
	if err := checkKey(&key); err != nil {
		return key, "", err
	}
	key.Created = time.Now()
	key.Expires = key.Created.Add(key.Lifetime)
	text, err := addKey(ctx, accounts, &key)
	return key, text, err
}

// CheckUser reports why a name cannot be that of a key's owner, who sends it as the user
// of Basic credentials.
func CheckUser(name string) error {
	if name == "" || len(name) > 255 || name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(c rune) bool { return c == ':' || !unicode.IsPrint(c) }) {
		return errors.New("must be 1 to 255 printable characters without a colon")
	}
	return nil
}

func addKey(ctx context.Context, accounts *storage.Accounts, key *storage.APIKey) (string, error) {
	text := newKey()
	hash, err := HashKey(text)
	if err != nil {
		return "", err
	}
	key.ID = uuid.NewString()
	return text, accounts.AddKey(ctx, *key, hash)
}

// checkKey checks what somebody said of a key, and leaves out empty scopes, which zot's
// clients send.
func checkKey(key *storage.APIKey) error {
	if !utf8.ValidString(key.Label) || utf8.RuneCountInString(key.Label) > maxLabel || strings.ContainsFunc(key.Label, unicode.IsControl) {
		return keyError(http.StatusBadRequest, "the label must be at most %d characters, none of them a control character", maxLabel)
	}
	key.Scopes = slices.DeleteFunc(slices.Clone(key.Scopes), func(scope string) bool { return scope == "" })
	if len(key.Scopes) > maxKeyScopes {
		return keyError(http.StatusBadRequest, "%d scopes are too many, at most %d are taken", len(key.Scopes), maxKeyScopes)
	}
	if _, err := authz.ParseScopes(key.Scopes); err != nil {
		return keyError(http.StatusBadRequest, "%s", err)
	}
	return nil
}

// expiry returns when a key is to end that is wanted until then.
func expiry(wanted, now time.Time, usual, longest time.Duration) (time.Time, error) {
	switch {
	case wanted.IsZero():
		return now.Add(usual), nil
	case !wanted.After(now):
		return wanted, keyError(http.StatusBadRequest, "the expiration date %s has passed", day(wanted))
	case wanted.Sub(now) > longest:
		return wanted, keyError(http.StatusBadRequest, "the expiration date %s is too late: the last that is taken is %s", day(wanted), day(now.Add(longest)))
	}
	return wanted, nil
}

// ListKeys returns the keys of a person who is signed in.
func (s *Site) ListKeys(ctx context.Context, caller *Caller) ([]storage.APIKey, error) {
	person, err := caller.person()
	if err != nil {
		return nil, err
	}
	return s.Accounts.KeysOf(ctx, person)
}

// RevokeKey ends a key of a person who is signed in, the key itself that was sent, or
// any key if an admin is signed in.
func (s *Site) RevokeKey(r *http.Request, caller *Caller, id string) error {
	if caller.Identity == nil {
		return errNotSignedIn
	}
	if caller.Token != nil {
		return errKeyByKey
	}
	key, err := s.Accounts.Key(r.Context(), id)
	if errors.Is(err, storage.ErrKeyUnknown) {
		return errNotYours
	}
	if err != nil {
		return err
	}
	if !s.mayEnd(caller, key) {
		return errNotYours
	}
	if err := s.Accounts.RevokeKey(r.Context(), id); err != nil {
		return err
	}
	s.AuditRequest(r, "key_revoked", caller.Name, "key", id, "label", key.Label, "owner", key.Owner)
	return nil
}

func (s *Site) mayEnd(caller *Caller, key *storage.APIKey) bool {
	if caller.Key != nil {
		return caller.Key.ID == key.ID
	}
	if person, err := caller.person(); err == nil && person == key.Person {
		return true
	}
	return s.IsAdmin(caller) && caller.Session != nil && s.checkOwner(key) == nil
}

// RotateKey makes the successor of a key that was sent, or of one of a person who is
// signed in. The old one works for the grace after it.
func (s *Site) RotateKey(r *http.Request, caller *Caller, id string) (successor storage.APIKey, text string, err error) {
	if caller.Token != nil {
		return successor, "", errKeyByKey
	}
	if caller.Key != nil && id == "" {
		id = caller.Key.ID
	}
	old, err := s.Accounts.Key(r.Context(), id)
	if errors.Is(err, storage.ErrKeyUnknown) {
		return successor, "", errNotYours
	}
	if err != nil {
		return successor, "", err
	}
	if caller.Key != nil {
		if caller.Key.ID != id {
			return successor, "", errKeyByKey
		}
	} else if person, err := caller.person(); err != nil || person != old.Person {
		return successor, "", cmp.Or[error](err, errNotYours)
	}
	if old.Job != "" {
		return successor, "", keyError(http.StatusForbidden, "a job's key is not rotated: it would outlive the job")
	}
	now := time.Now()
	lifetime := min(old.Lifetime, s.Keys.MaxLifetime)
	successor = storage.APIKey{
		ID: uuid.NewString(), Label: old.Label, Person: old.Person, Owner: old.Owner, Groups: old.Groups,
		Scopes: old.Scopes, Created: now, Expires: now.Add(lifetime), Lifetime: lifetime,
	}
	text = newKey()
	hash, err := HashKey(text)
	if err != nil {
		return successor, "", err
	}
	err = s.Accounts.RotateKey(r.Context(), id, successor, hash, now.Add(s.Keys.Grace))
	if errors.Is(err, storage.ErrKeyEnded) {
		return successor, "", keyError(http.StatusConflict, "the API key has ended; make a new one")
	}
	if err == nil {
		s.AuditRequest(r, "key_rotated", old.Owner, "key", id, "successor", successor.ID, "label", old.Label, "expires", successor.Expires)
	}
	return successor, text, err
}
