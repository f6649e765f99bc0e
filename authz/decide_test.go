package authz_test

import (
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/glob"
)

// policy is one whose rules are written as in a Caddyfile.
func policy(repositories string, lines ...string) authz.Policy {
	p := authz.Policy{Repositories: strings.Fields(repositories)}
	for _, line := range lines {
		p.Rules = append(p.Rules, rule(line))
	}
	return p
}

func rule(line string) authz.Rule {
	subject, tags, _ := strings.Cut(line, " tags ")
	fields := strings.Fields(subject)
	r := authz.Rule{Line: line, Tags: strings.Fields(tags)}
	r.Kind = authz.Kind(fields[0])
	if fields = fields[1:]; r.Kind == authz.User || r.Kind == authz.Group {
		r.Name, fields = fields[0], fields[1:]
	}
	var err error
	if r.Actions, err = authz.ParseActions(fields); err != nil {
		panic(err) // of a line of this package
	}
	return r
}

func person(name string, groups ...string) *authz.Identity {
	return &authz.Identity{Name: name, Groups: groups}
}

// limited is somebody with an API key that has scopes.
func limited(who *authz.Identity, scopes ...string) *authz.Identity {
	parsed, err := authz.ParseScopes(scopes)
	if err != nil {
		panic(err) // of a scope of this package
	}
	return &authz.Identity{Name: who.Name, Groups: who.Groups, Scopes: parsed}
}

// blumeops are the policies of the documentation, with some more.
var blumeops = authz.Policies{
	policy("docker.io/** ghcr.io/**", "anonymous read", "group admins read delete"),
	policy("private/**", "authenticated read", "user alice read create"),
	policy("blumeops/**",
		"anonymous read", "group artifact-workloads create",
		"group artifact-workloads update tags latest buildcache*",
		"group admins read create update delete"),
	policy("sealed"),
}

func TestDecide(t *testing.T) {
	alice, bob, ci, admin := person("alice"), person("bob", "alice"), person("ci:x", "artifact-workloads"), person("eve", "users", "admins")
	for _, test := range []struct {
		name       string
		who        *authz.Identity
		actions    authz.Action
		repository string
		tag        string
		want       bool
	}{
		{"anonymous may what a line says", nil, authz.Read, "blumeops/app", "", true},
		{"and no more", nil, authz.Create, "blumeops/app", "v1", false},
		{"what anonymous may, everybody may", bob, authz.Read, "blumeops/app", "", true},
		{"who is known may what authenticated may", bob, authz.Read, "private/x", "", true},
		{"who is not known may not", nil, authz.Read, "private/x", "", false},
		{"a user may what their line says", alice, authz.Create, "private/x", "v1", true},
		{"a group's name is no user's", bob, authz.Create, "private/x", "v1", false},
		{"a user's name is no group's", person("admins"), authz.Delete, "blumeops/app", "", false},
		{"names are told from those that differ in case", person("Alice"), authz.Create, "private/x", "v1", false},
		{"any of the groups will do", admin, authz.Delete, "blumeops/app", "", true},
		{"the first policy decides, though a later one allows more", admin, authz.Create, "docker.io/library/x", "v1", false},
		{"by default nothing is allowed", admin, authz.Read, "other/x", "", false},
		{"a policy without rules allows nothing", admin, authz.Read, "sealed", "", false},
		{"a glob is of whole names", nil, authz.Read, "blumeops2/app", "", false},
		{"names are told from those that differ in case, of repositories too", nil, authz.Read, "Blumeops/app", "", false},
		{"one of several actions is enough", ci, authz.Push, "blumeops/app", "v1", true},
		{"a tag that is named", ci, authz.Update, "blumeops/app", "latest", true},
		{"by a glob", ci, authz.Update, "blumeops/app", "buildcache-arm64", true},
		{"a tag that is not", ci, authz.Update, "blumeops/app", "v1", false},
		{"some tag", ci, authz.Update, "blumeops/app", authz.AnyTag, true},
		{"without a tag it is about all", ci, authz.Update, "blumeops/app", "", false},
		{"a rule without tags is about all tags", ci, authz.Create, "blumeops/app", "", true},
		{"some tag of what is not allowed for any", ci, authz.Delete, "blumeops/app", authz.AnyTag, false},
	} {
		d := blumeops.Decide(test.who, test.actions, test.repository, test.tag)
		if d.Allowed != test.want || d.Limited || (d.Rule != nil) != test.want {
			t.Errorf("%s: %v", test.name, d)
		}
	}
}

func TestScopesLimit(t *testing.T) {
	admin := person("eve", "admins")
	for _, test := range []struct {
		name       string
		scopes     []string
		actions    authz.Action
		repository string
		allowed    bool
		limited    bool
	}{
		{"none", nil, authz.Delete, "blumeops/app", true, false},
		{"what they say", []string{"read:blumeops/**"}, authz.Read, "blumeops/app", true, false},
		{"another action", []string{"read:blumeops/**"}, authz.Delete, "blumeops/app", false, true},
		{"another repository", []string{"read:blumeops/app"}, authz.Read, "blumeops/other", false, true},
		{"what anonymous may", []string{"create:blumeops/**"}, authz.Read, "blumeops/app", false, true},
		{"several add up", []string{"read:blumeops/**", "delete:blumeops/app"}, authz.Delete, "blumeops/app", true, false},
		{"but not across repositories", []string{"read:blumeops/**", "delete:docker.io/**"}, authz.Delete, "blumeops/app", false, true},
		{"one of the actions is left", []string{"create:blumeops/**"}, authz.Push, "blumeops/app", true, false},
		{"they do not widen", []string{"read,create,update,delete:**"}, authz.Create, "docker.io/x", false, false},
		{"nor where no policy is", []string{"read,create,update,delete:**"}, authz.Read, "other/x", false, false},
	} {
		d := blumeops.Decide(limited(admin, test.scopes...), test.actions, test.repository, authz.AnyTag)
		if d.Allowed != test.allowed || d.Limited != test.limited {
			t.Errorf("%s: allowed %v, limited %v: %v", test.name, d.Allowed, d.Limited, d)
		}
	}
}

// A rule that is limited to tags must not hide behind scopes that leave another action.
func TestScopesAndTagsLimitTogether(t *testing.T) {
	ci := limited(person("ci:x", "artifact-workloads"), "update:blumeops/**")
	for tag, want := range map[string]bool{"latest": true, "v1": false, "": false, authz.AnyTag: true} {
		if d := blumeops.Decide(ci, authz.Push, "blumeops/app", tag); d.Allowed != want {
			t.Errorf("tag %q: %v", tag, d)
		}
	}
}

func TestNames(t *testing.T) {
	policies := authz.Policies{policy("docker.io/** team/*"), policy("**"), policy("other/** **")}
	for repository, want := range map[string]bool{
		"docker.io/x": true, "team/x": true, "team/x/y": false, "elsewhere": false, "other/x": true,
	} {
		if policies.Names(repository) != want {
			t.Errorf("%s: %v", repository, !want)
		}
	}
}

func TestReadsAnything(t *testing.T) {
	policies := authz.Policies{
		policy("a/**", "group admins read", "anonymous create"),
		policy("b/**", "user alice create read", "group artifact-workloads update delete"),
	}
	for _, test := range []struct {
		name string
		who  *authz.Identity
		want bool
	}{
		{"anonymous, who may only create", nil, false},
		{"somebody who may no more than anonymous", person("bob"), false},
		{"a group", person("bob", "admins"), true},
		{"a user", person("alice"), true},
		{"a group that may anything but read", person("ci", "artifact-workloads"), false},
		{"a key that is limited to reading", limited(person("alice"), "read:b/x"), true},
		{"a key that is limited to anything else", limited(person("alice"), "create,update,delete:**"), false},
	} {
		if policies.ReadsAnything(test.who) != test.want {
			t.Errorf("%s: %v", test.name, !test.want)
		}
	}
	if (authz.Policies)(nil).ReadsAnything(person("alice")) {
		t.Error("without a policy somebody reads")
	}
}

func TestCheckOfRules(t *testing.T) {
	user := authz.Subject{Kind: authz.User, Name: "alice"}
	for _, test := range []struct {
		rule authz.Rule
		err  string
	}{
		{authz.Rule{Subject: user, Actions: authz.Read}, ""},
		{authz.Rule{Subject: user, Actions: authz.Push, Tags: glob.Set{"v*"}}, ""},
		{authz.Rule{Subject: authz.Subject{Kind: authz.Anonymous}, Actions: authz.Read}, ""},
		{authz.Rule{Subject: user}, "no action is given"},
		{authz.Rule{Subject: user, Actions: authz.Read | authz.Create, Tags: glob.Set{"v*"}}, "read cannot be limited to tags"},
		{authz.Rule{Subject: authz.Subject{Kind: authz.User}, Actions: authz.Read}, "user needs a name"},
		{authz.Rule{Subject: authz.Subject{Kind: authz.Group}, Actions: authz.Read}, "group needs a name"},
		{authz.Rule{Subject: authz.Subject{Kind: authz.Anonymous, Name: "x"}, Actions: authz.Read}, "anonymous takes no name"},
		{authz.Rule{Subject: authz.Subject{Kind: authz.Authenticated, Name: "x"}, Actions: authz.Read}, "authenticated takes no name"},
		{authz.Rule{Subject: authz.Subject{Kind: "everyone"}, Actions: authz.Read}, `unknown subject "everyone"`},
		{authz.Rule{Actions: authz.Read}, `unknown subject ""`},
	} {
		if err := test.rule.Check(); !says(err, test.err) {
			t.Errorf("%v: %v", test.rule, err)
		}
	}
}

func TestASubjectOfNoKindIncludesNobody(t *testing.T) {
	for _, who := range []*authz.Identity{nil, person("alice"), person("")} {
		if (authz.Subject{Kind: "everyone"}).Includes(who) {
			t.Errorf("%v is included", who)
		}
	}
}
