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

func TestPatternsThatTakeLongToMatchAreRefused(t *testing.T) {
	for _, pattern := range []string{
		strings.Repeat("{,a}", 30) + "x", strings.Repeat("*{a,b}", 20), strings.Repeat("{a,{b,{c,d}}}", 10), strings.Repeat("{a[}],b}", 20),
		"{a" + strings.Repeat(",a", 100) + "}", strings.Repeat("{a}", 10_000), strings.Repeat("a", 5000),
	} {
		for _, parse := range []func([]string) (glob.Set, error){glob.Parse, glob.ParseText} {
			if _, err := parse([]string{pattern}); err == nil || !strings.HasPrefix(err.Error(), "bad glob") {
				t.Errorf("%.50s: %v", pattern, err)
			}
		}
	}
	many := "{" + strings.TrimSuffix(strings.Repeat("name,", 100), ",") + "}/*"
	for _, pattern := range []string{many, "{a,b,c}/{d,e}-{f,g}", "{a,{b,c}}"} {
		if _, err := glob.Parse([]string{pattern}); err != nil {
			t.Error(err)
		}
	}
}

func TestMatchText(t *testing.T) {
	for _, test := range []struct {
		pattern         string
		matches, others []string
	}{
		{"refs/heads/*", []string{"refs/heads/main", "refs/heads/é", "refs/heads/a b"}, []string{"refs/heads/a/b", "refs/tags/v1", "xrefs/heads/main"}},
		{"refs/tags/v*", []string{"refs/tags/v1.0+x"}, []string{"refs/tags/1", "refs/tags/v1/x"}},
		{"refs/**", []string{"refs/heads/a/b"}, []string{"xrefs/heads"}},
		{"repo:org/x:ref:refs/heads/main", []string{"repo:org/x:ref:refs/heads/main"}, []string{"repo:org/x:ref:refs/heads/main2", "repo:org/x"}},
		{"repo:org/*:ref:refs/heads/main", []string{"repo:org/x:ref:refs/heads/main"}, []string{"repo:org/x/y:ref:refs/heads/main", "repo:organ/x:ref:refs/heads/main"}},
		{"repo:org/*:environment:{staging,production}", []string{"repo:org/x:environment:production"}, []string{"repo:org/x:environment:test"}},
		{"system:serviceaccount:ci:*", []string{"system:serviceaccount:ci:builder"}, []string{"system:serviceaccount:ci", "system:serviceaccount:other:ci:"}},
		{"project_path:group/*:ref_type:tag:ref:*", []string{"project_path:group/app:ref_type:tag:ref:v1"}, []string{"project_path:group/app:ref_type:branch:ref:v1"}},
		{"gitlab.example.com/g/p//.gitlab-ci.yml@refs/heads/*", []string{"gitlab.example.com/g/p//.gitlab-ci.yml@refs/heads/main"}, []string{"gitlab.example.com/g/p/.gitlab-ci.yml@refs/heads/main"}},
		{"https://example.com/*/", []string{"https://example.com/a/"}, []string{"https://example.com/a", "https://example.com/a/b/"}},
		{`dependabot\[bot\]`, []string{"dependabot[bot]"}, []string{"dependabotb"}},
		{`a\*\{\?\\`, []string{`a*{?\`}, []string{`ab{?\`}},
	} {
		globs, err := glob.ParseText([]string{test.pattern})
		if err != nil {
			t.Error(err)
		}
		for _, text := range test.matches {
			if !globs.Match(text) {
				t.Errorf("%s does not match %s", test.pattern, text)
			}
		}
		for _, text := range test.others {
			if globs.Match(text) {
				t.Errorf("%s matches %s", test.pattern, text)
			}
		}
	}
}

func TestPatternsThatMatchNoTextAreRefused(t *testing.T) {
	for _, pattern := range []string{"", "[", "[a", "{a", "a}", "[]", "!a", "a**", "ref:**", "a\x00b", "a\n", "a\u202eb", "\xff", `a\`} {
		if _, err := glob.ParseText([]string{"*", pattern}); err == nil || !strings.HasPrefix(err.Error(), "bad glob") {
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

// FuzzMatchText checks the same of globs of texts, and that a text of which every
// character is behind a backslash matches itself.
func FuzzMatchText(f *testing.F) {
	for _, pattern := range []string{"repo:org/*:ref:refs/heads/main", "https://a//b", "{a,b:*}/**", "[!a]", `[\]]`, `a\*`, "[a-", `\`, "{a,{b,c}}"} {
		f.Add(pattern, "repo:org/app:ref:refs/heads/main")
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if globs, err := glob.ParseText([]string{pattern}); err == nil {
			if matches := globs.Match(text); !strings.ContainsAny(pattern, `*?[]{}\`) && matches != (pattern == text) {
				t.Errorf("%q matches %q: %t", pattern, text, matches)
			}
		}
		var quoted strings.Builder
		for _, c := range text {
			quoted.WriteString(`\` + string(c))
		}
		if globs, err := glob.ParseText([]string{quoted.String()}); err == nil && !globs.Match(text) {
			t.Errorf("%q does not match %q", quoted.String(), text)
		}
	})
}
