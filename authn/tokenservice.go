package authn

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/eblume/caddy-registry/authz"
)

// maxForm is how much of a form is read, in bytes.
const maxForm = 64 << 10

// ServeToken is Docker's token service (distribution's docs/spec/auth/token.md and, for
// POST, oauth.md): it gives a token for what was asked and policies allow. Nothing is an
// error that is merely not allowed: the token then does not have it.
func (s *Site) ServeToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	var caller *Caller
	var err error
	scopes := r.URL.Query()["scope"]
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		caller = anonymous
		// A session is not asked: its cookie comes along with what any page makes a
		// browser send.
		if value := r.Header["Authorization"]; len(value) > 0 {
			caller, err = s.identifyHeader(r, value)
		}
	case http.MethodPost:
		caller, scopes, err = s.identifyForm(w, r)
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		s.tokenError(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "invalid_request", "use GET or POST")
		return
	}
	var grant *grantError
	switch {
	case errors.As(err, &grant):
		s.tokenError(w, http.StatusBadRequest, "UNSUPPORTED", grant.code, grant.message)
		return
	case err != nil:
		status, code, message, retry := s.Refused(r, err)
		setRetryAfter(w, retry)
		s.tokenError(w, status, code, "invalid_grant", message)
		return
	}
	if caller.Token != nil {
		s.tokenError(w, http.StatusUnauthorized, "UNAUTHORIZED", "invalid_grant", "a token makes no other token")
		return
	}
	s.answerToken(w, r, caller, scopes)
}

// grantError is a form that asks for what is not given (RFC 6749, section 5.2).
type grantError struct{ code, message string }

func (e *grantError) Error() string { return e.message }

// identifyForm returns who sent the form by which containerd, helm and oras ask for a token.
func (s *Site) identifyForm(w http.ResponseWriter, r *http.Request) (*Caller, []string, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return nil, nil, &grantError{"invalid_request", "the form cannot be read: " + err.Error()}
	}
	scopes := r.PostForm["scope"]
	switch r.PostForm.Get("grant_type") {
	case "password":
		if r.PostForm.Get("username") == "" && r.PostForm.Get("password") == "" {
			return anonymous, scopes, nil
		}
		caller, err := s.IdentifyPassword(r.Context(), r.PostForm.Get("username"), r.PostForm.Get("password"))
		return caller, scopes, err
	case "":
		return nil, nil, &grantError{"invalid_request", "grant_type is missing"}
	}
	return nil, nil, &grantError{"unsupported_grant_type", "grant_type must be password"}
}

type tokenAnswer struct {
	Token       string    `json:"token"`
	AccessToken string    `json:"access_token"`
	ExpiresIn   int       `json:"expires_in"`
	IssuedAt    time.Time `json:"issued_at"`
	Scope       string    `json:"scope,omitempty"`
}

func (s *Site) answerToken(w http.ResponseWriter, r *http.Request, caller *Caller, scopes []string) {
	now := time.Now().Truncate(time.Second)
	lifetime := TokenLifetime
	token := Token{Access: s.grant(caller, scopes)}
	if caller.Identity != nil {
		token.Subject = caller.Name
	}
	switch {
	case caller.Key != nil:
		token.Key = caller.Key.ID
		if warning := caller.Warning(now); warning != "" {
			w.Header().Set("Warning", warning)
		}
	case caller.Job != nil:
		token.Job, token.JobVersion, token.Groups = caller.Job.Name(), caller.Job.Version(), caller.Groups
		lifetime = min(lifetime, caller.JobExpires.Sub(now))
	}
	token.Expiry = jwt.NewNumericDate(now.Add(lifetime))
	text, err := s.Tokens.Issue(r.Context(), token, now)
	if err != nil {
		s.Log.ErrorContext(r.Context(), "making a token", "error", err)
		s.tokenError(w, http.StatusServiceUnavailable, "UNAVAILABLE", "server_error", "no token can be made now; the registry's log says why")
		return
	}
	answer := tokenAnswer{Token: text, AccessToken: text, ExpiresIn: int(lifetime.Seconds()), IssuedAt: now.UTC()}
	if r.Method == http.MethodPost {
		answer.Scope = scopeText(token.Access)
	}
	writeJSON(w, r, http.StatusOK, answer)
}

// What one token is asked for is bounded, in scopes and in all their bytes, so that it is
// never longer than what [Tokens.Verify] reads.
const (
	maxScopes    = 100
	maxScopeSize = 4096
)

// grant returns what scopes, each of which may be several with spaces between, ask for
// and policies allow. Those that are not understood are left out, as are actions.
func (s *Site) grant(caller *Caller, scopes []string) []Access {
	granted := []Access{}
	var asked, size int
	for _, text := range scopes {
		for one := range strings.FieldsSeq(text) {
			asked, size = asked+1, size+len(one)
			if asked > maxScopes || size > maxScopeSize {
				return granted
			}
			access, ok := parseScope(one)
			if !ok {
				continue
			}
			access.Actions = slices.DeleteFunc(access.Actions, func(action string) bool {
				return !s.grants(caller.Identity, access, action)
			})
			if len(access.Actions) > 0 {
				granted = append(granted, access)
			}
		}
	}
	return granted
}

// parseScope reads repository:name:pull,push, where the name may begin with a host and
// its port. Sorted and each once, actions come in any order.
func parseScope(text string) (Access, bool) {
	kind, rest, ok := strings.Cut(text, ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 {
		return Access{}, false
	}
	kind, _, _ = strings.Cut(kind, "(") // repository(plugin)
	var actions []string
	for action := range strings.SplitSeq(rest[i+1:], ",") {
		if action == "*" {
			actions = append(actions, "pull", "push", "delete")
		} else {
			actions = append(actions, action)
		}
	}
	slices.Sort(actions)
	return Access{Type: kind, Name: rest[:i], Actions: slices.Compact(actions)}, true
}

// tokenActions are what the actions of scopes stand for.
var tokenActions = map[string]authz.Action{"pull": authz.Read, "push": authz.Push, "delete": authz.Delete}

// grants reports whether a token may have an action: whether one of the repositories that
// the name may stand for allows it, for some tag. Each request is judged again.
func (s *Site) grants(who *authz.Identity, access Access, action string) bool {
	if access.Type == "registry" && access.Name == "catalog" {
		return action == "pull" && s.Policies.ReadsAnything(who)
	}
	actions, ok := tokenActions[action]
	if !ok || access.Type != "repository" {
		return false
	}
	for _, repository := range s.Candidates(access.Name) {
		if s.Policies.Decide(who, actions, repository, authz.AnyTag).Allowed {
			return true
		}
	}
	return false
}

func scopeText(granted []Access) string {
	texts := make([]string, 0, len(granted))
	for _, a := range granted {
		texts = append(texts, a.Type+":"+a.Name+":"+strings.Join(a.Actions, ","))
	}
	return strings.Join(texts, " ")
}

// tokenError answers in the words of the distribution spec and, for those who asked with
// a form, of OAuth.
func (s *Site) tokenError(w http.ResponseWriter, status int, code, oauth, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(struct {
		Errors      []entry `json:"errors"`
		Error       string  `json:"error"`
		Description string  `json:"error_description"`
		Details     string  `json:"details"` // what Docker shows
	}{[]entry{{code, message}}, oauth, message, message})
	if err != nil {
		panic(err) // strings
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

func setRetryAfter(w http.ResponseWriter, retry time.Duration) {
	if retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
	}
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, answer any) {
	body, err := json.Marshal(answer)
	if err != nil {
		panic(err) // of types of this package
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone
	}
}
