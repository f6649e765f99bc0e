package upstream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/upstream"
)

func TestFreshness(t *testing.T) {
	rules := upstream.Freshness{
		{For: 5 * time.Minute},
		{Tags: glob.Set{"v*.*.*", "*-[0-9a-f]*"}, Forever: true},
		{Tags: glob.Set{"v*"}, For: time.Hour},
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
	for _, rules := range []upstream.Freshness{nil, {{Tags: glob.Set{"v*"}, Forever: true}}} {
		if got, forever := rules.For("latest"); got != time.Minute || forever {
			t.Errorf("%v: %s, %t", rules, got, forever)
		}
	}
}

func TestAccess(t *testing.T) {
	access := upstream.Access{Allow: glob.Set{"library/*", "bitnami/*"}, Deny: glob.Set{"*/*-beta", "library/bad"}}
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
	if err := (upstream.Access{Allow: glob.Set{"a"}}).Check("b", ""); err == nil || !strings.Contains(err.Error(), ": b: only") {
		t.Error(err)
	}
}

// TestAccessDefaultsToAllAndDenyWins checks both for any name.
func TestAccessDefaultsToAllAndDenyWins(t *testing.T) {
	globs := rapid.SliceOfN(rapid.SampledFrom([]string{"a/**", "*/b", "**", "c"}), 1, 3)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-c](/[a-c]){0,2}`).Draw(t, "name")
		deny := glob.Set(globs.Draw(t, "deny"))
		for _, allow := range []glob.Set{nil, globs.Draw(t, "allow")} {
			allowed := upstream.Access{Allow: allow, Deny: deny}.Check(name, "") == nil
			if want := (allow == nil || allow.Match(name)) && !deny.Match(name); allowed != want {
				t.Errorf("allow %v deny %v: %t", allow, deny, allowed)
			}
		}
	})
}
