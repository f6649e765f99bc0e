package authz_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/authz"
)

func TestParseAction(t *testing.T) {
	for word, want := range map[string]authz.Action{
		"read": authz.Read, "create": authz.Create, "update": authz.Update, "delete": authz.Delete,
	} {
		got, err := authz.ParseAction(word)
		if err != nil || got != want || got.String() != word {
			t.Errorf("%s: %v, %v", word, got, err)
		}
	}
	for _, word := range []string{"", "Read", "read ", "pull", "push", "*", "read,create", "rea"} {
		if got, err := authz.ParseAction(word); err == nil {
			t.Errorf("%q: %v", word, got)
		}
	}
}

func TestParseActions(t *testing.T) {
	for _, test := range []struct {
		words string // with spaces between
		want  authz.Action
		err   string
	}{
		{"read", authz.Read, ""},
		{"delete read", authz.Read | authz.Delete, ""},
		{"read create update delete", authz.Read | authz.Push | authz.Delete, ""},
		{"", 0, "no action is given"},
		{"read read", 0, "action read is given twice"},
		{"read write", 0, `unknown action "write": must be one of read, create, update, delete`},
	} {
		got, err := authz.ParseActions(strings.Fields(test.words))
		if got != test.want || !says(err, test.err) {
			t.Errorf("%q: %v, %v", test.words, got, err)
		}
	}
}

// says reports whether an error has a text, or is none if there is no text.
func says(err error, text string) bool {
	if text == "" {
		return err == nil
	}
	return err != nil && strings.Contains(err.Error(), text)
}

func TestParseScope(t *testing.T) {
	for _, test := range []struct {
		text    string
		actions authz.Action
		pattern string
		err     string
	}{
		{"read:blumeops/**", authz.Read, "blumeops/**", ""},
		{"create,read:blumeops/app", authz.Read | authz.Create, "blumeops/app", ""},
		{"read:{a,b}/*", authz.Read, "{a,b}/*", ""},
		{"read", 0, "", "must be an action and a glob"},
		{"", 0, "", "must be an action and a glob"},
		{":a", 0, "", `unknown action ""`},
		{"read:", 0, "", "it is empty"},
		{"read,:a", 0, "", `unknown action ""`},
		{"read,read:a", 0, "", "given twice"},
		{"pull:a", 0, "", `unknown action "pull"`},
		{"read a", 0, "", "must be an action and a glob"},
		{"read: a", 0, "", "bad glob"},
		{"read:a b", 0, "", "bad glob"},
		{"read:localhost:5000/a", 0, "", "bad glob"}, // no repository's name has a port
		{"read:!a", 0, "", "there is no negation"},
		{"read:{a", 0, "", "not closed"},
		{"*:a", 0, "", `unknown action "*"`},
	} {
		scope, err := authz.ParseScope(test.text)
		if !says(err, test.err) {
			t.Errorf("%q: error %v, want %q", test.text, err, test.err)
		}
		if err == nil && (scope.Actions != test.actions || !slices.Equal(scope.Repositories, []string{test.pattern})) {
			t.Errorf("%q: %v", test.text, scope)
		}
	}
}

func TestParseScopesIsAllOrNothing(t *testing.T) {
	scopes, err := authz.ParseScopes([]string{"read:a", "create,update:b/**"})
	if err != nil || len(scopes) != 2 || scopes[0].Actions != authz.Read || scopes[1].Actions != authz.Push {
		t.Errorf("%v, %v", scopes, err)
	}
	if scopes, err = authz.ParseScopes([]string{"read:a", "b"}); scopes != nil || !says(err, `scope "b"`) {
		t.Errorf("%v, %v", scopes, err)
	}
	if scopes, err = authz.ParseScopes(nil); scopes != nil || err != nil {
		t.Errorf("%v, %v", scopes, err)
	}
}

func TestEveryScopeThatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfNDistinct(rapid.SampledFrom(words), 1, 4, rapid.ID).Draw(t, "words")
		pattern := rapid.SampledFrom(patterns).Draw(t, "pattern")
		scope, err := authz.ParseScope(strings.Join(words, ",") + ":" + pattern)
		if err != nil || !slices.Equal(scope.Repositories, []string{pattern}) {
			t.Fatalf("%v, %v", scope, err)
		}
		if got := strings.Split(scope.Actions.String(), " or "); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(words))) {
			t.Fatalf("%v became %v", words, got)
		}
	})
}

// FuzzParseScope looks for a text that is taken and then allows what it does not say.
func FuzzParseScope(f *testing.F) {
	for _, text := range []string{
		"read:blumeops/**", "read,create:blumeops/app", "read:{a,b}/[a-z]*", "delete:**", "read:", ":", "read,:x", "update:a:b", "read:[", "read:\\",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		scope, err := authz.ParseScope(text)
		if err != nil {
			return
		}
		words, pattern, _ := strings.Cut(text, ":")
		if scope.Actions == 0 || scope.Actions&^(authz.Read|authz.Push|authz.Delete) != 0 || len(scope.Repositories) != 1 || scope.Repositories[0] != pattern {
			t.Fatalf("%q means %v", text, scope)
		}
		for word, action := range map[string]authz.Action{"read": authz.Read, "create": authz.Create, "update": authz.Update, "delete": authz.Delete} {
			if said := slices.Contains(strings.Split(words, ","), word); said != (scope.Actions&action != 0) {
				t.Errorf("%q: %s is %v", text, word, !said)
			}
		}
		scope.Repositories.Match("team/app") // which a bad pattern would end
	})
}

// TestScopesCostLittleTogether: whoever makes a key chooses them, and they are matched with
// each request.
func TestScopesCostLittleTogether(t *testing.T) {
	cheap := make([]string, 50)
	for i := range cheap {
		cheap[i] = "read,create:team/{a,b}/**"
	}
	if _, err := authz.ParseScopes(cheap); err != nil {
		t.Error(err)
	}
	if _, err := authz.ParseScopes(append(cheap, "read:team/**")); err == nil {
		t.Error("more are taken")
	}
}
