package caddymodule_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/authn/oidc/oidctest"
	"github.com/eblume/caddy-registry/authz"
)

const (
	corpusPolicies = 12  // sites
	corpusRequests = 300 // of each
)

var (
	corpusRepositories = []string{"team/app", "team/lib", "team/none", "other/app", "secret/app", "gone"}
	corpusMethods      = []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
	}
)

// TestEveryRequestIsDecidedByPolicy has everybody ask for everything, and compares what
// they get with what a table and package authz say. What is refused changes nothing.
func TestEveryRequestIsDecidedByPolicy(t *testing.T) {
	c := newCorpus(t)
	sets := slices.Clone(writtenPolicies)
	for len(sets) < corpusPolicies {
		sets = append(sets, somePolicies(c.chance))
	}
	for i, set := range sets {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			c.begin(t, set)
			c.askAll()
			c.askForLists()
			if t.Failed() {
				t.Logf("the policies are\n%s", set)
			}
		})
	}
	for what, n := range c.seen {
		if n == 0 {
			t.Errorf("nobody was answered with %s", what)
		}
	}
	t.Logf("%v", c.seen)
}

// corpus is the server that is asked, by whom, and what for.
type corpus struct {
	*guarded
	static     string // options besides the policies
	chance     *rand.Rand
	kinds      []kind
	identities []identity
	set        policySet
	policies   authz.Policies
	tokens     map[string]string // by identity and repository
	asked      int
	seen       map[string]int
}

func newCorpus(t *testing.T) *corpus {
	t.Helper()
	idp, jobs := oidctest.New(t), startForge(t)
	idp.SetUser("alice", oidctest.Claims{"groups": []string{"artifact-workloads"}})
	g := newGuarded(t)
	g.proxies = "127.0.0.1/32"
	c := &corpus{
		guarded: g, static: provider("idp", idp) + jobs.option(), chance: rand.New(rand.NewPCG(6, 2)), kinds: kinds(),
		seen: map[string]int{"what was asked for": 0, "a challenge": 0, "DENIED": 0, "insufficient_scope": 0, "invalid_token": 0},
	}
	g.run(c.static)
	scopes, err := authz.ParseScopes([]string{"read:team/**", "create,update:team/app"})
	if err != nil {
		t.Fatal(err)
	}
	owners := []authz.Identity{
		{Name: "nobody"}, {Name: "ci", Groups: []string{"artifact-workloads"}}, {Name: "root", Groups: []string{"admins"}},
		{Name: "limited", Groups: []string{"admins", "artifact-workloads"}, Scopes: scopes},
	}
	for i := range owners {
		who := &owners[i]
		options := groups(who.Groups...)
		if who.Scopes != nil {
			options = append(options, "--scope", "read:team/**", "--scope", "create,update:team/app")
		}
		key := g.key(who.Name, options...)
		c.add("Basic", who, basic(who.Name, key))
		c.add("Bearer", who, bearer(key))
		c.addTokens(who, basic(who.Name, key))
	}
	job := &authz.Identity{Name: "ci:eblume/app", Groups: []string{"artifact-workloads"}}
	jwt := jobs.jobToken("eblume/app", nil)
	c.add("a job's token as Bearer", job, bearer(jwt))
	c.add("a job's token as Basic", job, basic("whoever", jwt))
	c.addTokens(job, basic("job", jwt))
	c.add("a session", &authz.Identity{Name: "alice", Groups: []string{"artifact-workloads"}}, g.signIn("idp"))
	c.add("nothing", nil, nil)
	c.addTokens(nil, nil)
	c.identities = append(c.identities,
		identity{name: "an unknown key", wrong: "the API key is unknown", send: c.alone(bearer("zak_unknown"))},
		identity{name: "a key that was cut", wrong: "cut off or mistyped", send: c.alone(basic("ci", "crk_cut"))},
		identity{name: "a strange token", wrong: "neither an API key nor a token", send: c.alone(bearer("a.b.c"))},
	)
	return c
}

func (c *corpus) add(name string, who *authz.Identity, header http.Header) {
	c.identities = append(c.identities, identity{name: name, who: who, send: func(string) map[string][]string { return header }})
}

// addTokens adds somebody with a token for what is asked for, and with one for something else.
func (c *corpus) addTokens(who *authz.Identity, header http.Header) {
	fetch := func(name, repository string, scopes ...string) map[string][]string {
		key := fmt.Sprint(name, who, repository)
		if c.tokens[key] == "" {
			c.tokens[key] = c.token(header, scopes...)
		}
		return bearer(c.tokens[key])
	}
	c.identities = append(c.identities,
		identity{name: "a token", who: who, token: true, send: func(repository string) map[string][]string {
			return fetch("for it", repository, "repository:"+repository+":pull,push,delete", "registry:catalog:*")
		}},
		identity{name: "a token for something else", who: who, token: true, lacks: true, send: func(string) map[string][]string {
			return fetch("for another", "", "repository:some/where:pull,push,delete")
		}},
	)
}

// alone has a client send from an address of its own, since those who fail are slowed down.
func (c *corpus) alone(header http.Header) func(string) map[string][]string {
	n := 0
	return func(string) map[string][]string {
		n++
		return with(header, "X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", len(header["Authorization"][0])%250, n/250, n%250))
	}
}

// begin reloads the server with other policies.
func (c *corpus) begin(t *testing.T, set policySet) {
	t.Helper()
	c.t, c.site.t, c.open.t = t, t, t
	c.set, c.policies, c.tokens = set, set.policies(), make(map[string]string)
	c.guarded.run(c.static + set.String())
}

// sample is a request of the corpus.
type sample struct {
	kind     *kind
	who      *identity
	method   string
	about    subject
	expected expectation
	known    bool // the method is one of the kind's
}

// askAll sends requests by chance: those that must be refused first, between which
// nothing may change.
func (c *corpus) askAll() {
	c.t.Helper()
	var refused, allowed []sample
	for range corpusRequests {
		s, ok := c.sample()
		switch {
		case !ok:
		case c.refuses(&s) != nil:
			refused = append(refused, s)
		default:
			allowed = append(allowed, s)
		}
	}
	before := c.stats()
	for i := range refused {
		c.ask(&refused[i])
	}
	if after := c.stats(); after != before {
		c.t.Errorf("what was refused changed %s to %s", before, after)
	}
	for i := range allowed {
		c.ask(&allowed[i])
	}
}

func (c *corpus) stats() string {
	c.t.Helper()
	out, err := c.command("stats", "--json")
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// sample returns a request by chance, and prepares what it is about.
func (c *corpus) sample() (sample, bool) {
	c.asked++
	s := sample{kind: &c.kinds[c.chance.IntN(len(c.kinds))], who: &c.identities[c.chance.IntN(len(c.identities))]}
	s.method = corpusMethods[c.chance.IntN(len(corpusMethods))]
	if methods := s.kind.methods; methods != nil && c.chance.IntN(8) > 0 {
		for methods[s.method] == nil {
			s.method = corpusMethods[c.chance.IntN(len(corpusMethods))]
		}
	}
	tag := fmt.Sprintf("%s%d", []string{"v", "dev", "x"}[c.chance.IntN(3)], c.asked)
	s.about = subject{
		repository: corpusRepositories[c.chance.IntN(len(corpusRepositories))], from: corpusRepositories[c.chance.IntN(len(corpusRepositories))],
		tag: tag, content: index(tag), other: index("other " + tag), manifest: digest.FromBytes(index(tag)), fresh: "fresh " + tag,
	}
	what := s.kind.methods[s.method]
	if s.known = what != nil; s.known {
		s.expected = what(s.about)
	} else {
		s.expected.status = s.kind.other
	}
	if s.kind.name == "a mount" && s.about.from == s.about.repository || s.expected.status < 0 {
		return s, false
	}
	if s.kind.prepare != nil {
		s.kind.prepare(c.open, &s.about)
	}
	return s, true
}

// refuses returns what a request needs that its sender may not, or has no token for; nil
// if there is nothing.
func (c *corpus) refuses(s *sample) *need {
	if s.who.wrong != "" {
		return &need{}
	}
	for i := range s.expected.needs {
		n := &s.expected.needs[i]
		if s.who.lacks || !c.policies.Decide(s.who.who, n.actions, s.about.repository, n.tag).Allowed {
			return n
		}
	}
	return nil
}
