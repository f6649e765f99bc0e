package upstream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/upstream"
)

func TestGlobs(t *testing.T) {
	for _, test := range []struct {
		glob, matches, others string
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
		globs, err := upstream.ParseGlobs([]string{test.glob})
		if err != nil {
			t.Error(err)
		}
		for name := range strings.FieldsSeq(test.matches) {
			if !globs.Match(name) {
				t.Errorf("%s does not match %s", test.glob, name)
			}
		}
		for name := range strings.FieldsSeq(test.others) {
			if globs.Match(name) {
				t.Errorf("%s matches %s", test.glob, name)
			}
		}
	}
	if upstream.Globs(nil).Match("a") {
		t.Error("no globs match")
	}
}

func TestGlobsThatCannotMatchAreRefused(t *testing.T) {
	for _, glob := range []string{"", "[", "[a", "{a", "a]b[", "/a", "a/", "a//b", "!a", "a**", "**a/b", "a:b", "a b", "a@b", `a\*`, "ä", "$a", "(a)"} {
		if _, err := upstream.ParseGlobs([]string{"**", glob}); err == nil || !strings.HasPrefix(err.Error(), "bad glob") {
			t.Errorf("%q: %v", glob, err)
		}
	}
}

func TestFreshness(t *testing.T) {
	rules := upstream.Freshness{
		{For: 5 * time.Minute},
		{Tags: upstream.Globs{"v*.*.*", "*-[0-9a-f]*"}, Forever: true},
		{Tags: upstream.Globs{"v*"}, For: time.Hour},
	}
	for tag, want := range map[string]time.Duration{"latest": 5 * time.Minute, "v1.2.3": -1, "1.0-0abc": -1, "v1.2": time.Hour} {
		got, forever := rules.For(tag)
		if forever {
			got = -1
		}
		if got != want {
			t.Errorf("%s: %s, want %s", tag, got, want)
		}
	}
	for _, rules := range []upstream.Freshness{nil, {{Tags: upstream.Globs{"v*"}, Forever: true}}} {
		if got, forever := rules.For("latest"); got != time.Minute || forever {
			t.Errorf("%v: %s, %t", rules, got, forever)
		}
	}
}

func TestAccess(t *testing.T) {
	access := upstream.Access{Allow: upstream.Globs{"library/*", "bitnami/*"}, Deny: upstream.Globs{"*/*-beta", "library/bad"}}
	for name, want := range map[string]string{
		"library/nginx":      "",
		"bitnami/redis":      "",
		"library/nginx-beta": "library/nginx-beta:v1: deny */*-beta",
		"library/bad":        "library/bad:v1: deny library/bad",
		"acme/tool":          "acme/tool:v1: only allow library/* bitnami/*",
		"acme/tool-beta":     "deny */*-beta",
		"library/a/b":        "only allow",
	} {
		err := access.Check(name, "v1")
		if want == "" && err != nil || want != "" && (!errors.Is(err, upstream.ErrNotAllowed) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if err := (upstream.Access{Allow: upstream.Globs{"a"}}).Check("b", ""); err == nil || !strings.Contains(err.Error(), ": b: only") {
		t.Error(err)
	}
}

// TestAccessDefaultsToAllAndDenyWins checks both for any name.
func TestAccessDefaultsToAllAndDenyWins(t *testing.T) {
	globs := rapid.SliceOfN(rapid.SampledFrom([]string{"a/**", "*/b", "**", "c"}), 1, 3)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-c](/[a-c]){0,2}`).Draw(t, "name")
		deny := upstream.Globs(globs.Draw(t, "deny"))
		for _, allow := range []upstream.Globs{nil, globs.Draw(t, "allow")} {
			allowed := upstream.Access{Allow: allow, Deny: deny}.Check(name, "") == nil
			if want := (allow == nil || allow.Match(name)) && !deny.Match(name); allowed != want {
				t.Errorf("allow %v deny %v: %t", allow, deny, allowed)
			}
		}
	})
}

// FuzzGlobs checks that a glob that is taken can be matched with anything, and that one
// without signs matches itself only.
func FuzzGlobs(f *testing.F) {
	for _, glob := range []string{"blumeops/**", "*/*-beta", "v*.*.*", "*-[0-9a-f]*", "{a,b}/**", "[!a]", "[", "a**"} {
		f.Add(glob, "blumeops/app")
	}
	f.Fuzz(func(t *testing.T, glob, name string) {
		globs, err := upstream.ParseGlobs([]string{glob})
		if err != nil {
			return
		}
		if matches := globs.Match(name); !strings.ContainsAny(glob, "*?[]{}") && matches != (glob == name) {
			t.Errorf("%q matches %q: %t", glob, name, matches)
		}
	})
}
