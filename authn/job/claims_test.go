package job_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/glob"
)

func TestTemplatesAreFilledInOnce(t *testing.T) {
	ci := newIssuer(oldKey)
	for template, want := range map[string]string{
		"plain":                     "plain",
		"{claim.repository}":        "eblume/app",
		"ci:{claim.repository}":     "ci:eblume/app",
		"{claim.a}{claim.b}-x":      "{claim.b}b-x",
		"{claim.kubernetes.io/x y}": "dotted",
		"claim.sub":                 "claim.sub",
	} {
		config := ci.config()
		config.User, config.Groups = template, []string{"g:" + template, template}
		token := sign(t, oldKey, jobClaims(claims{"a": "{claim.b}", "b": "b", "kubernetes.io/x y": "dotted"}))
		got := accept(t, newVerifier(t, config), token)
		if got.User != want || !slices.Equal(got.Groups, []string{"g:" + want, want}) {
			t.Errorf("%s becomes %s and %v", template, got.User, got.Groups)
		}
	}
}

func TestBadTemplatesAreRefused(t *testing.T) {
	for _, template := range []string{"", "{", "}", "a}b", "{}", "{claim.}", "{claim}", "{sub}", "{env.X}", "{claim.a", "{claim.a{claim.b}}", "{claim.a{b}", "{claim.a}}", "{{claim.a}}", "{ claim.a}", "{CLAIM.a}"} {
		config := newIssuer().config()
		config.User = template
		if _, err := job.NewIssuer(config); err == nil || !strings.Contains(err.Error(), "bad template") {
			t.Errorf("%q: %v", template, err)
		}
	}
}

func TestClaimsThatMakeNoNameAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, ci *issuer) {
		config := ci.config()
		config.User, config.Groups = "ci:x", []string{"ok", "g:{claim.part}"}
		inGroups := newVerifier(t, config)
		config.User, config.Groups = "ci:{claim.part}", nil
		inUser := newVerifier(t, config)
		for _, test := range []struct {
			value any
			want  string
		}{
			{nil, "missing or no string"}, {5, "missing or no string"}, {true, "missing or no string"},
			{[]string{"a"}, "missing or no string"}, {map[string]any{"part": "a"}, "missing or no string"},
			{"", "is empty"}, {strings.Repeat("é", 256), "over 255 characters"},
			{"a\nb", "printed"}, {"a\x00", "printed"}, {"a\u202eb", "printed"}, {"a\u00a0b", "printed"}, {"\ufffd", "printed"}, {"\xff", "printed"},
		} {
			token := sign(t, oldKey, jobClaims(claims{"part": test.value}))
			for _, verifier := range []*job.Issuer{inUser, inGroups} {
				err := refuse(t, verifier, token, test.want)
				if !strings.Contains(err.Error(), "claim part, ") || errors.Is(err, job.ErrNoMatch) {
					t.Errorf("%v: %v", test.value, err)
				}
			}
		}
		for _, value := range []string{strings.Repeat("é", 255), "a b:c/d@e{f}", "日本"} {
			if got := accept(t, inUser, sign(t, oldKey, jobClaims(claims{"part": value}))); got.User != "ci:"+value {
				t.Errorf("%q becomes %q", value, got.User)
			}
		}
	})
}

// anyJSON is a value as a claim may have it.
var anyJSON = rapid.OneOf(
	rapid.Map(rapid.StringMatching(`[a-c/:*{}]{0,6}`), func(s string) any { return s }),
	rapid.Map(rapid.SliceOfN(rapid.StringMatching(`[a-c/]{1,3}`), 0, 3), func(s []string) any { return s }),
	rapid.Map(rapid.StringMatching(`[a-c/]{1,3}`), func(s string) any { return map[string]any{"one": s, s: s} }),
	rapid.Map(rapid.Int(), func(n int) any { return n }),
	rapid.Map(rapid.Bool(), func(b bool) any { return b }),
	rapid.Just(any(nil)),
)

// A token is taken if all claims that must match are strings that one of their globs
// matches, and whatever else it says.
func TestOnlyStringsMatch(t *testing.T) {
	ci := newIssuer(oldKey)
	names := []string{"one", "two", "One", "a.b"}
	pattern := rapid.SampledFrom([]string{"*", "**", "a", "a/*", "*/b", "[ab]*", "{a,b}/**", "a:*", "5", "true", `[\[]*`, "?"})
	rapid.Check(t, func(t *rapid.T) {
		config := ci.config()
		config.User, config.Match = "ci", nil
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID).Draw(t, "matched") {
			globs, err := glob.ParseText(rapid.SliceOfN(pattern, 1, 3).Draw(t, "globs"))
			if err != nil {
				t.Fatal(err)
			}
			config.Match = append(config.Match, job.Match{Claim: name, Values: globs})
		}
		c := claims{"iss": forge, "aud": registry, "exp": unix(time.Hour)}
		for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID).Draw(t, "claims") {
			c[name] = anyJSON.Draw(t, name)
		}
		want := true
		for _, match := range config.Match {
			text, ok := c[match.Claim].(string)
			want = want && ok && match.Values.Match(text)
		}
		verifier, err := job.NewIssuer(config)
		if err != nil {
			t.Fatal(err)
		}
		identity, err := verifier.Verify(context.Background(), sign(t, oldKey, c))
		if (err == nil) != want || err != nil && !errors.Is(err, job.ErrNoMatch) || want && fmt.Sprint(*identity) != fmt.Sprint(job.Identity{"ci", []string{"artifact-workloads"}, identity.Expires}) {
			t.Fatalf("%v with %+v: %+v, %v", c, config.Match, identity, err)
		}
	})
}
