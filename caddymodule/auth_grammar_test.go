package caddymodule_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/eblume/caddy-registry/authz"
	"github.com/eblume/caddy-registry/glob"
)

// ruleLine is a line of a policy that a test writes.
type ruleLine struct {
	subject []string // anonymous, authenticated, or user and group with a name
	actions []string
	tags    []string
}

func (l ruleLine) String() string {
	words := append(slices.Clone(l.subject), l.actions...)
	if l.tags != nil {
		words = append(append(words, "tags"), l.tags...)
	}
	return strings.Join(words, " ")
}

// rule returns what the line means.
func (l ruleLine) rule() authz.Rule {
	rule := authz.Rule{Subject: authz.Subject{Kind: authz.Kind(l.subject[0])}, Tags: glob.Set(l.tags), Line: l.String()}
	if len(l.subject) > 1 {
		rule.Name = l.subject[1]
	}
	var err error
	if rule.Actions, err = authz.ParseActions(l.actions); err != nil {
		panic(err) // of this file
	}
	return rule
}

// policyBlock is a policy that a test writes.
type policyBlock struct {
	globs []string
	lines []ruleLine
}

func (p policyBlock) first() string { return "policy " + strings.Join(p.globs, " ") }

func (p policyBlock) String() string {
	var lines []string
	for _, line := range p.lines {
		lines = append(lines, "\t"+line.String()+"\n")
	}
	return p.first() + " {\n" + strings.Join(lines, "") + "}\n"
}

// policySet are all policies of a site.
type policySet []policyBlock

func (s policySet) String() string {
	var blocks []string
	for _, p := range s {
		blocks = append(blocks, p.String())
	}
	return strings.Join(blocks, "")
}

// policies returns what the set means.
func (s policySet) policies() authz.Policies {
	var policies authz.Policies
	for _, p := range s {
		policy := authz.Policy{Repositories: glob.Set(p.globs)}
		for _, line := range p.lines {
			policy.Rules = append(policy.Rules, line.rule())
		}
		policies = append(policies, policy)
	}
	return policies
}

// deciding returns the policy that decides about a repository, or nil.
func (s policySet) deciding(repository string) *policyBlock {
	for i := range s {
		if (glob.Set(s[i].globs)).Match(repository) {
			return &s[i]
		}
	}
	return nil
}

var (
	everybody   = []string{"anonymous"}
	known       = []string{"authenticated"}
	workloads   = []string{"group", "artifact-workloads"}
	admins      = []string{"group", "admins"}
	allActions  = []string{"read", "create", "update", "delete"}
	allSubjects = [][]string{everybody, known, workloads, admins, {"user", "alice"}, {"user", "ci:eblume/app"}, {"user", "limited"}}
	somePlaces  = []string{"team/app", "team/*", "team/**", "other/**", "{team,other}/*", "secret/**", "*/app"}
	someTags    = [][]string{{"v*"}, {"dev*"}, {"v*", "x*"}}
)

// writtenPolicies are those that no chance may leave out.
var writtenPolicies = []policySet{
	{}, // nobody may do anything
	{{[]string{"**"}, []ruleLine{
		{everybody, []string{"read"}, nil}, {workloads, []string{"read", "create"}, nil},
		{workloads, []string{"update"}, []string{"dev*"}}, {admins, allActions, nil},
	}}},
	{{[]string{"secret/**"}, []ruleLine{{admins, allActions, nil}}}, {[]string{"**"}, []ruleLine{
		{known, []string{"read"}, nil}, {known, []string{"create", "update"}, []string{"v*"}}, {workloads, []string{"delete"}, []string{"dev*"}},
	}}},
	{{[]string{"team/**", "other/**"}, []ruleLine{{everybody, allActions, nil}}}},
}

// somePolicies returns policies by chance, such as a site may have.
func somePolicies(r *rand.Rand) policySet {
	var set policySet
	places := slices.Clone(somePlaces)
	r.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	for range r.IntN(3) {
		n := 1 + r.IntN(2)
		set = append(set, policyBlock{places[:n], someLines(r)})
		places = places[n:]
	}
	if r.IntN(4) > 0 {
		set = append(set, policyBlock{[]string{"**"}, someLines(r)})
	}
	return set
}

func someLines(r *rand.Rand) []ruleLine {
	var lines []ruleLine
	for range 1 + r.IntN(4) {
		line := ruleLine{subject: allSubjects[r.IntN(len(allSubjects))]}
		for _, action := range allActions {
			if r.IntN(2) == 0 {
				line.actions = append(line.actions, action)
			}
		}
		if line.actions == nil {
			line.actions = []string{"read"}
		}
		if !slices.Contains(line.actions, "read") && r.IntN(2) == 0 {
			line.tags = someTags[r.IntN(len(someTags))]
		}
		lines = append(lines, line)
	}
	return lines
}

// identity is somebody who sends requests, in one of the forms that there are.
type identity struct {
	name string
	who  *authz.Identity // nil: nobody knows them
	// send returns what they send with a request that is about a repository.
	send func(repository string) map[string][]string
	// wrong is what the registry says of credentials that are none.
	wrong string
	// token is set if they send a token, lacks if it is for something else.
	token, lacks bool
}

func (i identity) String() string { return fmt.Sprintf("%s, who is %s,", i.name, i.who) }
