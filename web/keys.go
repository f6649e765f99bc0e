package web

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// KeysPage is where somebody looks after their API keys.
type KeysPage struct {
	Layout
	// Keys are those of the user, or the one that began the session.
	Keys []Key
	// New is the key that was just made. It is shown by this one answer and never again.
	New *NewKey
	// Note is what was done, Error why something was not, other than making a key, as
	// errors are written.
	Note, Error string
	// MayCreate is not set if the session was begun with an API key, which makes no others.
	MayCreate bool
	// Form is what the form for a new key shows.
	Form KeyForm
	// Action is where all forms of the page post; see [ReadKeyPost].
	Action string
	// Lifetime is what a key gets if no date is given, MaxLifetime the most it may get, and
	// Grace how long it works after it was rotated.
	Lifetime, MaxLifetime, Grace time.Duration
	Now                          time.Time
}

// Key is an API key without its secret.
type Key struct {
	ID     string
	Label  string
	Scopes []string // none: all that its owner may do
	// LastUsed and Revoked are zero if that never was, Expires if it never ends.
	Created, Expires, LastUsed, Revoked time.Time
	// Successor is the key that it was rotated to, or empty.
	Successor string
}

// NewKey is an API key that was just made.
type NewKey struct {
	Label, Secret string
	Expires       time.Time
	// OldEnds is when the key ends that it is the successor of, zero if there is none.
	OldEnds time.Time
}

// KeyForm is what somebody filled in for a new key. To show it again, with what is wrong
// with it, give back what was read.
type KeyForm struct {
	// ID tells forms apart. A page gets a new one, which the server takes only once, so
	// that a page which is sent again makes no second key.
	ID      string
	Label   string
	Expires string // a date such as 2027-01-31, or empty
	Scopes  string // one on each line
	Error   string // as errors are written
}

// Until returns when the key is to end: with the day that was chosen, in UTC, or zero if
// none was.
func (f KeyForm) Until() (time.Time, error) {
	if f.Expires == "" {
		return time.Time{}, nil
	}
	day, err := time.Parse(time.DateOnly, f.Expires)
	if err != nil {
		return time.Time{}, fmt.Errorf("the expiry date %q must be as 2027-01-31", f.Expires)
	}
	return day.AddDate(0, 0, 1).Add(-time.Second), nil
}

// ScopeList returns the scopes, without blanks around them or empty lines.
func (f KeyForm) ScopeList() []string {
	var scopes []string
	for line := range strings.Lines(f.Scopes) {
		if scope := strings.TrimSpace(line); scope != "" {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

// What the forms of the page of keys ask for.
const (
	CreateKey = "create"
	RotateKey = "rotate"
	RevokeKey = "revoke"
)

// KeyPost is what a form of the page of keys sends.
type KeyPost struct {
	Do   string // CreateKey, RotateKey or RevokeKey, or anything that somebody made up
	Key  string // the ID of the key that is to be rotated or revoked
	Form KeyForm
}

// ReadKeyPost reads what a form of the page of keys sends. Nothing is taken from the URL.
func ReadKeyPost(w http.ResponseWriter, r *http.Request) (KeyPost, error) {
	if err := readForm(w, r); err != nil {
		return KeyPost{}, err
	}
	form := r.PostForm
	return KeyPost{
		Do:  form.Get("do"),
		Key: form.Get("key"),
		Form: KeyForm{
			ID: form.Get("form"), Label: form.Get("label"), Expires: form.Get("expires"), Scopes: form.Get("scopes"),
		},
	}, nil
}

// keyView is a key with what the page says of it.
type keyView struct {
	Key
	keyState
}

// shortID returns enough of a key's ID to know it by in logs and metrics.
func shortID(id string) string { return id[:min(8, len(id))] }

// keysView is what the template sees.
type keysView struct {
	KeysPage
	Live, Ended []keyView
	// Latest is the last day that may be chosen for a new key, zero if there is no choice.
	Latest   time.Time
	Default  time.Time // when a key ends for which no date is chosen
	Commands []command
}

// command is a line for a shell.
type command struct{ ID, Label, Text string }

// Keys answers with the page of API keys.
func Keys(w http.ResponseWriter, r *http.Request, status int, p KeysPage) error {
	p.Now = p.Now.UTC()
	v := keysView{KeysPage: p, Default: p.Now.Add(p.Lifetime)}
	for _, key := range p.Keys {
		row := keyView{key, stateOf(key, p.Now)}
		if row.Ended {
			v.Ended = append(v.Ended, row)
		} else {
			v.Live = append(v.Live, row)
		}
	}
	// A chosen day is worked to its end, so the last day that may be chosen is the one
	// before that on which the longest lifetime ends.
	if latest := p.Now.Add(p.MaxLifetime).AddDate(0, 0, -1); !latest.Before(p.Now) {
		v.Latest = latest
	}
	if p.New != nil {
		v.Commands = commandsFor(p.Host, p.User)
	}
	return keysPage.answer(w, r, status, view{Layout: p.Layout, Title: "API keys", Page: v})
}

// commandsFor returns how a new key is used. The key itself is in none: what is typed
// stays in the shell's history, and all who share a machine see its command lines.
func commandsFor(host, user string) []command {
	user = shellQuote(user)
	return []command{
		{"command-docker", "docker asks for the key as password", "docker login " + shellQuote(host) + " -u " + user},
		{"command-skopeo", "skopeo, with the key in a variable as CI has it", "skopeo copy --dest-creds=" + user + `:"$API_KEY" oci:./app ` + shellQuote("docker://"+host+"/team/app:v1")},
	}
}

var shellPlain = regexp.MustCompile(`^[A-Za-z0-9._@:/+-]+$`)

func shellQuote(word string) string {
	if shellPlain.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
