package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/eblume/caddy-registry/authz"
)

// ask sends a request and compares its answer.
func (c *corpus) ask(s *sample) {
	c.t.Helper()
	var body []byte
	if s.kind.body != nil && s.method != http.MethodGet && s.method != http.MethodHead {
		body = s.kind.body(s.about)
	}
	path := s.kind.path(s.about)
	a := c.send(s.who.send(s.about.repository), s.method, path, body...)
	what := fmt.Sprintf("%s of %s, %s %s", s.who, s.kind.name, s.method, path)
	n := c.refuses(s)
	if n != nil {
		c.checkRefused(what, s.who, *n, s.about.repository, a)
		reads := s.method == http.MethodGet || s.method == http.MethodHead
		if s.kind.unchanged != nil && !reads && !s.kind.unchanged(c.open, s.about) {
			c.t.Errorf("%s: something was done", what)
		}
		return
	}
	c.seen["what was asked for"]++
	want := s.expected.status
	if s.kind.name == "a mount" && s.known {
		want = http.StatusAccepted
		if c.policies.Decide(s.who.who, authz.Read, s.about.from, authz.AnyTag).Allowed {
			want = http.StatusCreated
		}
	}
	if a.status != want {
		c.t.Errorf("%s: %d %s, want %d", what, a.status, a.body, want)
	}
}

// checkRefused checks how somebody is told that they may not.
func (c *corpus) checkRefused(what string, who *identity, n need, repository string, a answer) {
	c.t.Helper()
	head := a.body == "" // of HEAD, whose answers have none
	challenge := a.header.Get("WWW-Authenticate")
	allowed := who.wrong == "" && c.policies.Decide(who.who, n.actions, repository, n.tag).Allowed
	scope := ""
	if n.scope != "" {
		scope = "repository:" + repository + ":" + n.scope
	}
	switch {
	case who.wrong != "":
		c.seen["invalid_token"]++
		if a.status != http.StatusUnauthorized || challenge != c.challenge("", "invalid_token") || !head && !strings.Contains(a.message(), who.wrong) {
			c.t.Errorf("%s: %d, %q, %s", what, a.status, challenge, a.body)
		}
	case allowed:
		c.seen["insufficient_scope"]++
		if a.status != http.StatusUnauthorized || challenge != c.challenge(scope, "insufficient_scope") {
			c.t.Errorf("%s: %d, %q, want the scope %s", what, a.status, challenge, scope)
		}
	case who.who == nil:
		c.seen["a challenge"]++
		if a.status != http.StatusUnauthorized || challenge != c.challenge(scope, "") || !head && a.refusal() != "401 UNAUTHORIZED" {
			c.t.Errorf("%s: %d, %q, want the scope %s; %s", what, a.status, challenge, scope, a.body)
		}
	default:
		c.seen["DENIED"]++
		if a.status != http.StatusForbidden || challenge != "" || !head && a.refusal() != "403 DENIED" {
			c.t.Errorf("%s: %d, %q, %s", what, a.status, challenge, a.body)
		}
		for _, words := range c.wordsOf(who, n, repository) {
			if !head && !strings.Contains(a.message(), words) {
				c.t.Errorf("%s: %q does not say %q", what, a.message(), words)
			}
		}
	}
}

func (c *corpus) challenge(scope, problem string) string {
	text := fmt.Sprintf(`Bearer realm="http://%s/auth/token",service="%s"`, c.host, c.host)
	if scope != "" {
		text += `,scope="` + scope + `"`
	}
	if problem != "" {
		text += `,error="` + problem + `"`
	}
	return text
}

// wordsOf are what somebody must be told who may not.
func (c *corpus) wordsOf(who *identity, n need, repository string) []string {
	words := []string{who.who.Name, repository}
	for i, action := range allActions {
		if n.actions&(1<<i) != 0 {
			words = append(words, action)
		}
	}
	policy := c.set.deciding(repository)
	if policy == nil {
		return append(words, "no policy names it")
	}
	unlimited := *who.who
	unlimited.Scopes = nil
	if c.policies.Decide(&unlimited, n.actions, repository, n.tag).Allowed {
		return append(words, "the API key's scopes")
	}
	words = append(words, policy.first())
	for _, line := range policy.lines {
		if line.rule().Includes(who.who) {
			words = append(words, line.String())
		}
	}
	return words
}

// askForLists asks which repositories there are, and whether this is a registry.
func (c *corpus) askForLists() {
	c.t.Helper()
	var all struct{ Repositories []string }
	if err := json.Unmarshal([]byte(c.open.send(nil, http.MethodGet, "/v2/_catalog").body), &all); err != nil {
		c.t.Fatal(err)
	}
	for i := range c.identities {
		who := &c.identities[i]
		c.askForCatalog(who, all.Repositories)
		method := corpusMethods[c.chance.IntN(len(corpusMethods))]
		want, challenge := http.StatusOK, ""
		switch {
		case who.wrong != "":
			want, challenge = http.StatusUnauthorized, c.challenge("", "invalid_token")
		case who.who == nil && !who.token:
			want, challenge = http.StatusUnauthorized, c.challenge("", "")
		case method != http.MethodGet && method != http.MethodHead:
			want = http.StatusMethodNotAllowed
		}
		a := c.send(who.send("team/app"), method, "/v2/")
		if a.status != want || a.header.Get("WWW-Authenticate") != challenge {
			c.t.Errorf("%s of /v2/ by %s: %d, %q, want %d, %q", who, method, a.status, a.header.Get("WWW-Authenticate"), want, challenge)
		}
	}
}

func (c *corpus) askForCatalog(who *identity, all []string) {
	c.t.Helper()
	a := c.send(who.send("team/app"), http.MethodGet, "/v2/_catalog")
	readsAny := who.wrong == "" && slices.ContainsFunc(c.set, func(p policyBlock) bool {
		return slices.ContainsFunc(p.lines, func(line ruleLine) bool {
			return slices.Contains(line.actions, "read") && line.rule().Includes(who.who)
		})
	})
	refused := map[bool]string{true: "401 UNAUTHORIZED", false: "403 DENIED"}
	switch {
	case who.wrong != "" || readsAny && who.lacks:
		if a.refusal() != "401 UNAUTHORIZED" {
			c.t.Errorf("%s of the catalog: %d %s", who, a.status, a.body)
		}
	case !readsAny:
		if a.refusal() != refused[who.who == nil] {
			c.t.Errorf("%s of the catalog: %d %s", who, a.status, a.body)
		}
	default:
		readable := slices.DeleteFunc(slices.Clone(all), func(name string) bool {
			return !c.policies.Decide(who.who, authz.Read, name, authz.AnyTag).Allowed
		})
		var got struct{ Repositories []string }
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusOK || !slices.Equal(got.Repositories, readable) {
			c.t.Errorf("%s of the catalog: %d %s, want %q", who, a.status, a.body, readable)
		}
	}
}
