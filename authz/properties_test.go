package authz_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/authz"
)

// Few names, so that those of policies and those that are asked for often meet.
var (
	words        = []string{"read", "create", "update", "delete"}
	patterns     = []string{"**", "a/**", "a/*", "b", "{a,b}/x", "[ab]/**"}
	repositories = []string{"a", "b", "c", "a/x", "b/x", "a/x/y"}
	names        = []string{"x", "y"}
	tagGlobs     = []string{"v*", "latest", "*-rc"}
	tags         = []string{"", authz.AnyTag, "latest", "v1", "v1-rc", "main"}
)

func drawActions(t *rapid.T) authz.Action {
	return authz.Action(rapid.IntRange(1, 15).Draw(t, "actions"))
}

func drawSome(t *rapid.T, of []string, label string) []string {
	return rapid.SliceOfN(rapid.SampledFrom(of), 1, 2).Draw(t, label)
}

func drawRule(t *rapid.T) authz.Rule {
	r := authz.Rule{Actions: drawActions(t)}
	r.Kind = rapid.SampledFrom([]authz.Kind{authz.Anonymous, authz.Authenticated, authz.User, authz.Group}).Draw(t, "kind")
	if r.Kind == authz.User || r.Kind == authz.Group {
		r.Name = rapid.SampledFrom(names).Draw(t, "name")
	}
	if r.Actions&authz.Read == 0 && rapid.Bool().Draw(t, "has tags") {
		r.Tags = drawSome(t, tagGlobs, "tags")
	}
	r.Line = string(r.Kind) + " " + r.Name
	return r
}

func drawPolicies(t *rapid.T) authz.Policies {
	var policies authz.Policies
	for range rapid.IntRange(0, 3).Draw(t, "policies") {
		p := authz.Policy{Repositories: drawSome(t, patterns, "repositories")}
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			p.Rules = append(p.Rules, drawRule(t))
		}
		policies = append(policies, p)
	}
	return policies
}

func drawIdentity(t *rapid.T) *authz.Identity {
	if rapid.Bool().Draw(t, "anonymous") {
		return nil
	}
	return person(rapid.SampledFrom(names).Draw(t, "user"), rapid.SliceOfN(rapid.SampledFrom(names), 0, 2).Draw(t, "groups")...)
}

func drawScopes(t *rapid.T) []string {
	var scopes []string
	for range rapid.IntRange(1, 3).Draw(t, "scopes") {
		actions := strings.ReplaceAll(drawActions(t).String(), " or ", ",")
		scopes = append(scopes, actions+":"+rapid.SampledFrom(patterns).Draw(t, "pattern"))
	}
	return scopes
}

// question is what Decide is asked besides who asks.
type question struct {
	actions    authz.Action
	repository string
	tag        string
}

func drawQuestion(t *rapid.T) question {
	return question{drawActions(t), rapid.SampledFrom(repositories).Draw(t, "repository"), rapid.SampledFrom(tags).Draw(t, "tag")}
}

func (q question) of(p authz.Policies, who *authz.Identity) authz.Decision {
	return p.Decide(who, q.actions, q.repository, q.tag)
}

func TestScopesNeverWiden(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, q := drawPolicies(t), drawQuestion(t)
		who := person(rapid.SampledFrom(names).Draw(t, "user"), names[0])
		scopes := drawScopes(t)
		with, without := q.of(policies, limited(who, scopes...)), q.of(policies, who)
		if with.Allowed && !without.Allowed {
			t.Fatalf("%s: %v, but without scopes %v", scopes, with, without)
		}
		if with.Limited != (without.Allowed && !with.Allowed) {
			t.Fatalf("%s: limited %v: %v, without scopes %v", scopes, with.Limited, with, without)
		}
		more := q.of(policies, limited(who, append(scopes, drawScopes(t)...)...))
		if with.Allowed && !more.Allowed {
			t.Fatalf("another scope took a right away: %v, then %v", with, more)
		}
	})
}

func TestAnotherRuleNeverTakesARightAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, q, who := drawPolicies(t), drawQuestion(t), drawIdentity(t)
		if len(policies) == 0 {
			return
		}
		before := q.of(policies, who)
		i := rapid.IntRange(0, len(policies)-1).Draw(t, "policy")
		at := rapid.IntRange(0, len(policies[i].Rules)).Draw(t, "at")
		policies[i].Rules = slices.Insert(slices.Clone(policies[i].Rules), at, drawRule(t))
		if after := q.of(policies, who); before.Allowed && !after.Allowed {
			t.Fatalf("%v, then %v", before, after)
		}
	})
}

func TestWhoIsKnownMayNoLessThanAnonymous(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, q, who := drawPolicies(t), drawQuestion(t), drawIdentity(t)
		if q.of(policies, nil).Allowed && !q.of(policies, who).Allowed {
			t.Fatal(q.of(policies, who))
		}
	})
}

func TestWhatIsAllowedForATagIsAllowedForSome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, q, who := drawPolicies(t), drawQuestion(t), drawIdentity(t)
		some, all := q, q
		some.tag, all.tag = authz.AnyTag, ""
		if q.of(policies, who).Allowed && !some.of(policies, who).Allowed {
			t.Fatalf("%v, but for no tag", q.of(policies, who))
		}
		if all.of(policies, who).Allowed && !q.of(policies, who).Allowed {
			t.Fatalf("for all tags, but %v", q.of(policies, who))
		}
	})
}

func TestADecisionIsOfTheFirstPolicyThatNamesTheRepository(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, q, who := drawPolicies(t), drawQuestion(t), drawIdentity(t)
		i := slices.IndexFunc(policies, func(p authz.Policy) bool { return p.Repositories.Match(q.repository) })
		got := q.of(policies, who)
		if i < 0 {
			if got.Allowed || got.Policy != nil {
				t.Fatalf("no policy names it, but %v", got)
			}
			return
		}
		if alone := q.of(policies[i:i+1], who); got.Allowed != alone.Allowed || got.Policy != &policies[i] {
			t.Fatalf("%v, but that policy alone says %v", got, alone)
		}
	})
}

func TestADecisionDependsOnNothingButItsArguments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, q, who := drawPolicies(t), drawQuestion(t), drawIdentity(t)
		first := q.of(policies, who)
		drawQuestion(t).of(policies, drawIdentity(t))
		if again := q.of(policies, who); !reflect.DeepEqual(first, again) || first.String() != again.String() {
			t.Fatalf("%v, then %v", first, again)
		}
	})
}

func TestReadsAnythingMissesNothingThatCanBeRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policies, who := drawPolicies(t), drawIdentity(t)
		if who != nil && rapid.Bool().Draw(t, "limited") {
			who = limited(who, drawScopes(t)...)
		}
		for _, repository := range repositories {
			if d := policies.Decide(who, authz.Read, repository, authz.AnyTag); d.Allowed && !policies.ReadsAnything(who) {
				t.Fatal(d)
			}
		}
	})
}
