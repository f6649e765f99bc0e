package authn

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// keyBody is the body of a request for a new key.
type keyBody struct {
	Label          string   `json:"label"`
	ExpirationDate string   `json:"expirationDate"` // RFC 3339
	Scopes         []string `json:"scopes"`
}

// keyAnswer is a key as the API tells it. The key itself is told once.
type keyAnswer struct {
	UUID           string     `json:"uuid"`
	Label          string     `json:"label"`
	APIKey         string     `json:"apiKey,omitempty"`
	CreatedAt      time.Time  `json:"createdAt"`
	ExpirationDate time.Time  `json:"expirationDate"`
	LastUsed       *time.Time `json:"lastUsed"`
	Scopes         []string   `json:"scopes"`
	IsExpired      bool       `json:"isExpired"`
	IsRevoked      bool       `json:"isRevoked"`
}

func answerOf(key *storage.APIKey, text string) keyAnswer {
	answer := keyAnswer{
		UUID: key.ID, Label: key.Label, APIKey: text, CreatedAt: key.Created.UTC().Truncate(time.Second),
		ExpirationDate: key.Expires.UTC().Truncate(time.Second), Scopes: append([]string{}, key.Scopes...),
		IsExpired: !time.Now().Before(key.Expires), IsRevoked: !key.Revoked.IsZero(),
	}
	if !key.LastUsed.IsZero() {
		used := key.LastUsed.UTC()
		answer.LastUsed = &used
	}
	return answer
}

// ServeKeys is the API for keys: POST makes one, GET lists the caller's, DELETE ?id=
// ends one.
func (s *Site) ServeKeys(w http.ResponseWriter, r *http.Request) {
	caller, ok := s.keyCallerOf(w, r)
	if !ok {
		return
	}
	switch r.Method {
	case http.MethodPost:
		var body keyBody
		if err := readJSON(w, r, &body); err != nil {
			answerKeyError(w, r, err)
			return
		}
		expires, err := parseExpiration(body.ExpirationDate)
		if err != nil {
			answerKeyError(w, r, err)
			return
		}
		key, text, err := s.MakeKey(r, caller, KeyRequest{Label: body.Label, Expires: expires, Scopes: body.Scopes})
		s.answerKey(w, r, http.StatusCreated, answerOf(&key, text), err)
	case http.MethodGet, http.MethodHead:
		keys, err := s.ListKeys(r.Context(), caller)
		answers := make([]keyAnswer, 0, len(keys))
		for i := range keys {
			answers = append(answers, answerOf(&keys[i], ""))
		}
		s.answerKey(w, r, http.StatusOK, map[string]any{"apiKeys": answers}, err)
	case http.MethodDelete:
		err := s.RevokeKey(r, caller, r.URL.Query().Get("id"))
		s.answerKey(w, r, http.StatusOK, struct{}{}, err)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST, DELETE")
		answerKeyError(w, r, keyError(http.StatusMethodNotAllowed, "use GET, POST or DELETE"))
	}
}

// parseExpiration returns when a key is to end, the zero time if nothing is said of that.
func parseExpiration(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	date, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return date, keyError(http.StatusBadRequest, "expirationDate %q must be as 2027-01-31T00:00:00Z", text)
	}
	if date.IsZero() { // as some clients write a time that is not set
		return date, keyError(http.StatusBadRequest, "the expiration date %s has passed", day(date))
	}
	return date, nil
}

// ServeRotate gives the key that was sent a successor.
func (s *Site) ServeRotate(w http.ResponseWriter, r *http.Request) {
	caller, ok := s.keyCallerOf(w, r)
	if !ok {
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		answerKeyError(w, r, keyError(http.StatusMethodNotAllowed, "use POST"))
		return
	}
	if caller.Key == nil || caller.Session != nil {
		answerKeyError(w, r, keyError(http.StatusUnauthorized, "send the API key that is to be rotated, as Bearer or with its owner's name as Basic"))
		return
	}
	key, text, err := s.RotateKey(r, caller, "")
	s.answerKey(w, r, http.StatusCreated, answerOf(&key, text), err)
}

// keyCallerOf returns who asks for something about keys, unless that is answered already.
func (s *Site) keyCallerOf(w http.ResponseWriter, r *http.Request) (*Caller, bool) {
	w.Header().Set("Cache-Control", "no-store")
	caller, err := s.Identify(r)
	if err != nil {
		status, _, message, retry := s.Refused(r, err)
		setRetryAfter(w, retry)
		answerKeyError(w, r, keyError(status, "%s", message))
		return nil, false
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if err := caller.SameOrigin(r); err != nil {
			answerKeyError(w, r, keyError(http.StatusForbidden, "the request comes from another site"))
			return nil, false
		}
	}
	if warning := caller.Warning(time.Now()); warning != "" {
		w.Header().Set("Warning", warning)
	}
	return caller, true
}

func (s *Site) answerKey(w http.ResponseWriter, r *http.Request, status int, answer any, err error) {
	var refused *KeyError
	switch {
	case err == nil:
		writeJSON(w, r, status, answer)
	case errors.As(err, &refused):
		answerKeyError(w, r, err)
	case errors.Is(err, storage.ErrFull):
		s.Log.ErrorContext(r.Context(), "storage is full", "error", err)
		answerKeyError(w, r, keyError(http.StatusInsufficientStorage, "%s", storage.ErrFull))
	default:
		s.Log.ErrorContext(r.Context(), "request about API keys failed", "error", err)
		answerKeyError(w, r, keyError(http.StatusInternalServerError, "the registry failed to answer; its log says why"))
	}
}

func answerKeyError(w http.ResponseWriter, r *http.Request, err error) {
	status, message := http.StatusBadRequest, err.Error()
	var refused *KeyError
	if errors.As(err, &refused) {
		status = refused.Status
	}
	writeJSON(w, r, status, map[string]string{"error": message})
}

// readJSON reads a request's body, which may be empty.
func readJSON(w http.ResponseWriter, r *http.Request, body any) error {
	if r.ContentLength == 0 {
		return nil
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxForm))
	if err := decoder.Decode(body); err != nil {
		return keyError(http.StatusBadRequest, "the body is not the JSON that is expected: %s", err)
	}
	if decoder.More() {
		return keyError(http.StatusBadRequest, "the body goes on after its JSON")
	}
	return nil
}
