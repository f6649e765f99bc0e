package authn

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

func TestWhoAKeyProves(t *testing.T) {
	s := newSite(t)
	key, text := s.addKey(storage.APIKey{Scopes: []string{"read:team/**"}})
	header := basic("alice", text)[1]
	encoded := strings.TrimPrefix(header, "Basic ")
	for name, value := range map[string]string{
		"Basic":                  header,
		"Basic in lower case":    "basic " + encoded,
		"Basic in any case":      "bASIC " + encoded,
		"Bearer":                 "Bearer " + text,
		"Bearer in lower case":   "bearer " + text,
		"Bearer with more space": "Bearer   " + text + " ",
	} {
		caller := s.whoHas("Authorization", value)
		if caller.Name != "alice" || caller.Key == nil || caller.Key.ID != key.ID || len(caller.Groups) != 1 || len(caller.Scopes) != 1 ||
			caller.Session != nil || caller.Token != nil || caller.Job != nil {
			t.Errorf("%s: %+v", name, caller)
		}
	}
	if len(s.failed) != 0 {
		t.Errorf("failures %v", s.failed)
	}
}

func TestWrongCredentialsAreRefusedAndSayWhatIsWrong(t *testing.T) {
	s := newSite(t)
	_, text := s.addKey(storage.APIKey{})
	encode := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	for _, test := range []struct {
		name, reason, words string
		values              []string
	}{
		{"two headers", "malformed", "there are 2 Authorization headers", []string{"Bearer " + text, "Bearer " + text}},
		{"two headers, one empty", "malformed", "there are 2 Authorization headers", []string{"", "Bearer " + text}},
		{"an empty header", "malformed", "must be Basic or Bearer", []string{""}},
		{"another scheme", "malformed", "must be Basic or Bearer", []string{"Digest " + text}},
		{"no scheme", "malformed", "must be Basic or Bearer", []string{text}},
		{"a scheme with a tab", "malformed", "must be Basic or Bearer", []string{"Bearer\t" + text}},
		{"Basic alone", "malformed", "not Basic as in RFC 7617", []string{"Basic"}},
		{"Basic with nothing", "malformed", "not Basic as in RFC 7617", []string{"Basic "}},
		{"Basic that is no base64", "malformed", "not Basic as in RFC 7617", []string{"Basic alice:" + text}},
		{"Basic with more space", "malformed", "not Basic as in RFC 7617", []string{"Basic  " + strings.TrimPrefix(encode("alice:"+text), "Basic ")}},
		{"Basic without a colon", "malformed", "not Basic as in RFC 7617", []string{encode(text)}},
		{"another's key", "user", "not that user's: use its owner's name", []string{encode("bob:" + text)}},
		{"nobody's name", "user", "not that user's", []string{encode(":" + text)}},
		{"the name in another case", "user", "not that user's", []string{encode("Alice:" + text)}},
		{"the name with a space", "user", "not that user's", []string{encode("alice :" + text)}},
		{"the key as both", "user", "not that user's", []string{encode(text + ":" + text)}},
		{"user and key swapped", "unknown", "neither an API key nor a token", []string{encode(text + ":alice")}},
		{"no password", "unknown", "neither an API key nor a token", []string{encode("alice:")}},
		{"neither user nor password", "unknown", "neither an API key nor a token", []string{encode(":")}},
		{"a wrong password", "unknown", "neither an API key nor a token", []string{encode("alice:secret")}},
		{"a key that was cut", "malformed", "not whole: it was cut off or mistyped", []string{encode("alice:" + text[:20])}},
		{"a key that nobody has", "unknown", "the API key is unknown", []string{encode("alice:" + newKey())}},
		{"an imported key that nobody has", "unknown", "the API key is unknown", []string{"Bearer zak_x"}},
		{"Bearer alone", "unknown", "neither an API key nor a token", []string{"Bearer"}},
		{"Bearer with nothing", "unknown", "neither an API key nor a token", []string{"Bearer "}},
		{"Bearer of something", "unknown", "neither an API key nor a token", []string{"Bearer a.b.c"}},
		{"two tokens", "malformed", "not whole", []string{"Bearer " + text + " " + text}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			var headers []string
			for _, value := range test.values {
				headers = append(headers, "Authorization", value)
			}
			s.wantRefused(test.reason, test.words, headers...)
			s.wantRefused(test.reason, test.words, append(headers, "Cookie", s.signIn("alice"))...)
		})
	}
}

// What is refused is logged, and the API key may be right though the rest is wrong.
func TestARefusalTellsNoKey(t *testing.T) {
	s := newSite(t)
	_, text := s.addKey(storage.APIKey{})
	for name, headers := range map[string][]string{
		"without a scheme":     {"Authorization", text},
		"of another scheme":    {"Authorization", "Token " + text},
		"as user and password": basic(text, text),
		"as the user":          basic(text, "alice"),
		"twice":                {"Authorization", "Bearer " + text, "Authorization", "Bearer " + text},
		"of another":           basic("bob", text),
		"cut":                  bearer(text[:len(text)-1]),
	} {
		r := newRequest(http.MethodGet, "/v2/", headers...)
		_, err := s.Identify(r)
		_, _, message, _ := s.Refused(r, err)
		if told := message + s.audit.String() + s.log.String(); err == nil || strings.Contains(told, text[:len(text)-1]) {
			t.Errorf("%s: %s", name, told)
		}
	}
}

// Names of jobs have colons, and RFC 7617 ends the user at the first.
func TestANameWithAColonIsTheUserOfItsKey(t *testing.T) {
	s := newSite(t)
	key := storage.APIKey{ID: "id", Owner: "ci:eblume/app", Created: time.Now(), Expires: time.Now().Add(time.Hour)}
	text := newKey()
	hash, err := HashKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Accounts.AddKey(context.Background(), key, hash); err != nil {
		t.Fatal(err)
	}
	if caller := s.whoHas(basic("ci:eblume/app", text)...); caller.Name != "ci:eblume/app" {
		t.Errorf("%v", caller)
	}
	for _, user := range []string{"ci", "eblume/app", "ci:eblume/other", "ci:eblume/app:", ":ci:eblume/app"} {
		s.wantRefused("user", "not that user's", basic(user, text)...)
	}
}

func TestImportedKeysWork(t *testing.T) {
	s := newSite(t)
	hash, err := HashKey("zak_of-zot")
	if err != nil {
		t.Fatal(err)
	}
	key := storage.APIKey{ID: "id", Owner: "alice", Created: time.Now(), Expires: time.Now().Add(time.Hour)}
	if err := s.Accounts.AddKey(context.Background(), key, hash); err != nil {
		t.Fatal(err)
	}
	if caller := s.whoHas(basic("alice", "zak_of-zot")...); caller.Name != "alice" {
		t.Errorf("%v", caller)
	}
	s.wantRefused("unknown", "the API key is unknown", basic("alice", "zak_of-zo")...)
	s.wantRefused("user", "not that user's", basic("bob", "zak_of-zot")...)
}

func TestAKeyThatHasEndedSaysHow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		key, text := s.addKey(storage.APIKey{Lifetime: time.Hour})
		time.Sleep(time.Hour - time.Second)
		s.whoHas(bearer(text)...)
		time.Sleep(time.Second)
		s.wantRefused("expired", "the API key expired on 2000-01-01 01:00 UTC", bearer(text)...)
		s.wantRefused("expired", "expired on", basic("bob", text)...)

		revoked, other := s.addKey(storage.APIKey{})
		if err := s.Accounts.RevokeKey(context.Background(), revoked.ID); err != nil {
			t.Fatal(err)
		}
		s.wantRefused("revoked", "the API key was revoked on 2000-01-01 01:00 UTC", bearer(other)...)
		if err := s.Accounts.RevokeKey(context.Background(), key.ID); err != nil {
			t.Fatal(err)
		}
		s.wantRefused("revoked", "revoked on", bearer(text)...)
	})
}

func TestUsingAKeyIsRemembered(t *testing.T) {
	s := newSite(t)
	key, text := s.addKey(storage.APIKey{})
	if known, err := s.Accounts.Key(context.Background(), key.ID); err != nil || !known.LastUsed.IsZero() {
		t.Fatalf("%+v, %v", known, err)
	}
	before := time.Now().Truncate(time.Second)
	s.whoHas(bearer(text)...)
	if known, err := s.Accounts.Key(context.Background(), key.ID); err != nil || known.LastUsed.Before(before) {
		t.Errorf("%+v, %v", known, err)
	}
}

func TestAKeyIsWhatItsOwnerIsNow(t *testing.T) {
	s := newSite(t)
	_, text := s.makeKey(s.signIn("alice", "admins"), KeyRequest{})
	s.signIn("alice", "writers", "others")
	if caller := s.whoHas(bearer(text)...); strings.Join(caller.Groups, " ") != "writers others" {
		t.Errorf("groups %v", caller.Groups)
	}
}

func TestAKeyThatEndsSoonWarns(t *testing.T) {
	now := time.Now()
	for left, want := range map[time.Duration]bool{
		warnBefore + time.Second: false, warnBefore: true, time.Hour: true,
	} {
		caller := &Caller{Key: &storage.APIKey{ID: "the-id", Expires: now.Add(left)}}
		warning := caller.Warning(now)
		if (warning != "") != want || want && !strings.HasPrefix(warning, `299 - "API key the-id expires on `+day(now.Add(left))) {
			t.Errorf("%s before its end: %q", left, warning)
		}
	}
	if warning := (&Caller{}).Warning(now); warning != "" {
		t.Errorf("without a key: %q", warning)
	}
}
