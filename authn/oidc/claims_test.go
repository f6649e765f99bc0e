package oidc

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWhatCanBeAName(t *testing.T) {
	tests := []struct {
		value, prefix, want string // no want: it is refused
	}{
		{`"alice"`, "", "alice"},
		{`"alice"`, "corp/", "corp/alice"},
		{`"Zoë Ångström"`, "", "Zoë Ångström"},
		{`"a@example.test"`, "", "a@example.test"},
		{`"` + strings.Repeat("a", 255) + `"`, "", strings.Repeat("a", 255)},
		{`"` + strings.Repeat("a", 256) + `"`, "", ""},
		{`"` + strings.Repeat("a", 255) + `"`, "p-", ""},
		{`""`, "", ""},
		{`""`, "corp-", ""},
		{`" alice"`, "", ""},
		{`"alice "`, "", ""},
		{`"alice:admin"`, "", ""},
		{`"alice\nadmin"`, "", ""},
		{`"alice\u0000"`, "", ""},
		{`"alice\u202e"`, "", ""},
		{`"alice\ud800"`, "", ""},
		{"\"alice\xff\"", "", ""},
		{`null`, "", ""},
		{`1`, "", ""},
		{`true`, "", ""},
		{`["alice"]`, "", ""},
		{`{"name": "alice"}`, "", ""},
	}
	for _, test := range tests {
		got, err := readName(claims{"name": json.RawMessage(test.value)}, "name", test.prefix)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %q, %v, want %q", test.value, got, err, test.want)
		}
		if err != nil && !strings.Contains(err.Error(), "claim name") {
			t.Errorf("%s: the error does not name the claim: %v", test.value, err)
		}
	}
}

func TestWhatCanBeGroups(t *testing.T) {
	tests := []struct {
		value, prefix string
		want          []string
		refused       bool
	}{
		{value: `["b", "a"]`, want: []string{"a", "b"}},
		{value: `["b", "a", "b", "", "a"]`, want: []string{"a", "b"}},
		{value: `["b", "a", ""]`, prefix: "corp-", want: []string{"corp-a", "corp-b"}},
		{value: `"admins"`, want: []string{"admins"}},
		{value: `"two words, one group"`, want: []string{"two words, one group"}},
		{value: `""`, prefix: "corp-"},
		{value: `[]`},
		{value: `null`},
		{value: `[""]`},
		{value: `["a", 1]`, refused: true},
		{value: `["a", null]`, refused: true},
		{value: `[null]`, refused: true},
		{value: `[["a"]]`, refused: true},
		{value: `[{"name": "a"}]`, refused: true},
		{value: `{"a": true}`, refused: true},
		{value: `1`, refused: true},
		{value: `true`, refused: true},
	}
	for _, test := range tests {
		got, err := readGroups(claims{"groups": json.RawMessage(test.value)}, "groups", test.prefix)
		if !reflect.DeepEqual(got, test.want) || (err != nil) != test.refused {
			t.Errorf("%s: %q, %v, want %q", test.value, got, err, test.want)
		}
		if err != nil && !strings.Contains(err.Error(), "claim groups") {
			t.Errorf("%s: the error does not name the claim: %v", test.value, err)
		}
	}
}

func FuzzClaims(f *testing.F) {
	for _, seed := range []string{
		`{"name": "alice", "groups": ["b", "a", "b", ""]}`, `{"name": "alice", "groups": "a"}`, `{"name": "a:b"}`, `{"name": null}`, `{}`, `null`,
		`{"name": "a", "groups": ["a", null]}`, `{"NAME": "a"}`, `{"name": "\ud800", "groups": [1]}`, `{"name": " a"}`, `[]`, `{"name": "a", "name": "b"}`,
	} {
		f.Add([]byte(seed), "corp-")
		f.Add([]byte(seed), "")
	}
	f.Fuzz(func(t *testing.T, content []byte, prefix string) {
		var c claims
		if json.Unmarshal(content, &c) != nil {
			return
		}
		p := NewProvider(Config{UsernameClaim: "name", GroupsClaim: "groups", Prefix: prefix})
		name, groups, err := p.describe(c)
		if err != nil {
			if name != "" && groups != nil {
				t.Errorf("%s: %q, %q with error %v", content, name, groups, err)
			}
			return
		}
		if len(name) <= len(prefix) || !strings.HasPrefix(name, prefix) || len(name) > 255 || strings.ContainsAny(name, ":\n\r\x00") || !utf8.ValidString(name) {
			t.Errorf("%s: name %q", content, name)
		}
		if !slices.IsSorted(groups) || len(slices.Compact(slices.Clone(groups))) != len(groups) {
			t.Errorf("%s: groups %q", content, groups)
		}
		for _, group := range groups {
			if len(group) <= len(prefix) || !strings.HasPrefix(group, prefix) {
				t.Errorf("%s: group %q", content, group)
			}
		}
	})
}

func FuzzBrief(f *testing.F) {
	f.Add("invalid_grant: code\nabc is unknown", "abc", "s e/c")
	f.Add("%zz s+e%2Fc", "", "s e/c")
	f.Fuzz(func(t *testing.T, text, one, other string) {
		got := brief(text, one, other)
		if utf8.RuneCountInString(got) > maxBrief+3 || strings.ContainsAny(got, "\n\r\x00") {
			t.Errorf("%q", got)
		}
	})
}

// TestNamesThatBeginLikeAnotherProvidersAreNotTaken: a prefix tells providers apart only if
// nobody of another can have a name that begins with it.
func TestNamesThatBeginLikeAnotherProvidersAreNotTaken(t *testing.T) {
	p := NewProvider(Config{UsernameClaim: "name", GroupsClaim: "groups", Reserved: []string{"two-", "three."}})
	groups := json.RawMessage(`["two-admins", "users", "two", "three.x"]`)
	for name, taken := range map[string]bool{"two-alice": false, "three.": false, "two": true, "alice-two-": true} {
		got, left, err := p.describe(claims{"name": json.RawMessage(`"` + name + `"`), "groups": groups})
		if (err == nil) != taken || taken && (got != name || strings.Join(left, " ") != "two users") {
			t.Errorf("%s: %q, %v, %v", name, got, left, err)
		}
	}
	own := NewProvider(Config{UsernameClaim: "name", GroupsClaim: "groups", Prefix: "two-", Reserved: []string{"three."}})
	if got, _, err := own.describe(claims{"name": json.RawMessage(`"alice"`)}); err != nil || got != "two-alice" {
		t.Errorf("%q, %v", got, err)
	}
}
