package glob_test

import (
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/glob"
)

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, matches, others string
	}{
		{"blumeops/**", "blumeops blumeops/a blumeops/a/b", "blumeops2 blumeops2/a a/blumeops"},
		{"library/*", "library/nginx", "library library/a/b bitnami/nginx"},
		{"*/*-beta", "acme/tool-beta", "acme/tool acme/tool-beta/x tool-beta"},
		{"**", "a a/b a/b/c", ""},
		{"*", "a", "a/b"},
		{"**/secret/**", "secret a/secret a/secret/b", "secrets"},
		{"{acme,beta}/*", "acme/x beta/y", "gamma/x"},
		{"v*.*.*", "v1.2.3 v1.2.3-rc1", "v1.2 1.2.3 latest"},
		{"*-[0-9a-f]*", "v1-0abc 1.0-f", "latest v1-x"},
		{"[!a-z]*", "1", "a1"},
	} {
		globs, err := glob.Parse([]string{test.pattern})
		if err != nil {
			t.Error(err)
		}
		for name := range strings.FieldsSeq(test.matches) {
			if !globs.Match(name) {
				t.Errorf("%s does not match %s", test.pattern, name)
			}
		}
		for name := range strings.FieldsSeq(test.others) {
			if globs.Match(name) {
				t.Errorf("%s matches %s", test.pattern, name)
			}
		}
	}
	if glob.Set(nil).Match("a") {
		t.Error("no globs match")
	}
}

func TestPatternsThatCannotMatchAreRefused(t *testing.T) {
	for _, pattern := range []string{"", "[", "[a", "{a", "a]b[", "/a", "a/", "a//b", "!a", "a**", "**a/b", "a:b", "a b", "a@b", `a\*`, "ä", "$a", "(a)"} {
		if _, err := glob.Parse([]string{"**", pattern}); err == nil || !strings.HasPrefix(err.Error(), "bad glob") {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}

// FuzzMatch checks that a glob that is taken can be matched with anything, and that one
// without signs matches itself only.
func FuzzMatch(f *testing.F) {
	for _, pattern := range []string{"blumeops/**", "*/*-beta", "v*.*.*", "*-[0-9a-f]*", "{a,b}/**", "[!a]", "[", "a**"} {
		f.Add(pattern, "blumeops/app")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		globs, err := glob.Parse([]string{pattern})
		if err != nil {
			return
		}
		if matches := globs.Match(name); !strings.ContainsAny(pattern, "*?[]{}") && matches != (pattern == name) {
			t.Errorf("%q matches %q: %t", pattern, name, matches)
		}
	})
}
