package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/eblume/caddy-registry/authz"
)

var (
	errNoGlob         = errors.New("no glob is given")
	errRuleIsNeeded   = errors.New("at least one rule is needed")
	errAnonymousAdmin = errors.New("anonymous cannot be an admin")
)

// resolvePolicies checks policies and returns them as they are used. Errors name the
// policy and the rule.
func resolvePolicies(policies []Policy) (authz.Policies, error) {
	var resolved authz.Policies
	for i := range policies {
		p := &policies[i]
		policy, err := p.resolve()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		if err := p.checkReach(policies[:i]); err != nil {
			return nil, err
		}
		resolved = append(resolved, policy)
	}
	return resolved, nil
}

// String returns the policy's first line.
func (p *Policy) String() string { return "policy " + strings.Join(p.Repositories, " ") }

func (p *Policy) resolve() (authz.Policy, error) {
	if len(p.Repositories) == 0 {
		return authz.Policy{}, errNoGlob
	}
	repositories, err := parseGlobs(p.Repositories)
	if err != nil {
		return authz.Policy{}, err
	}
	if len(p.Rules) == 0 {
		return authz.Policy{}, errRuleIsNeeded
	}
	policy := authz.Policy{Repositories: repositories}
	for i := range p.Rules {
		rule, err := p.Rules[i].resolve()
		if err != nil {
			return authz.Policy{}, fmt.Errorf("%s: %w", &p.Rules[i], err)
		}
		policy.Rules = append(policy.Rules, rule)
	}
	return policy, nil
}

// checkReach reports why a policy can never decide, because of one that comes before it.
func (p *Policy) checkReach(above []Policy) error {
	for i := range above {
		if slices.Contains(above[i].Repositories, "**") {
			return fmt.Errorf("%s can never decide: %s above names everything", p, &above[i])
		}
		for _, glob := range p.Repositories {
			if slices.Contains(above[i].Repositories, glob) {
				return fmt.Errorf("%s can never decide for %s: %s above does", p, glob, &above[i])
			}
		}
	}
	return nil
}

// String returns the rule as it is written in a Caddyfile, with a space between words.
func (r *PolicyRule) String() string {
	words := []string{r.Kind}
	if r.Name != "" {
		words = append(words, r.Name)
	}
	words = append(words, r.Actions...)
	if len(r.Tags) > 0 {
		words = append(append(words, "tags"), r.Tags...)
	}
	for i, word := range words {
		if word == "" || strings.ContainsAny(word, "\"`#") || strings.ContainsFunc(word, unicode.IsSpace) {
			words[i] = `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`
		}
	}
	return strings.Join(words, " ")
}

func (r *PolicyRule) resolve() (rule authz.Rule, err error) {
	if rule.Subject, err = r.Subject.resolve(); err != nil {
		return rule, err
	}
	if rule.Actions, err = authz.ParseActions(r.Actions); err != nil {
		return rule, err
	}
	// An empty list could be meant as no tag, and would mean all.
	if r.Tags != nil && len(r.Tags) == 0 {
		return rule, fmt.Errorf("tags: %w", errNoGlob)
	}
	if rule.Tags, err = parseGlobs(r.Tags); err != nil {
		return rule, fmt.Errorf("tags: %w", err)
	}
	rule.Line = r.String()
	return rule, rule.Check()
}

// resolve returns the subject. Its name is somebody's as providers tell it, which may
// have any letters; but none is meant to look like a placeholder.
func (s Subject) resolve() (authz.Subject, error) {
	subject := authz.Subject{Kind: authz.Kind(s.Kind), Name: s.Name}
	if err := subject.Check(); err != nil {
		return subject, err
	}
	if hasPlaceholder(s.Name) {
		return subject, fmt.Errorf("%s %q: names in policies have no placeholders", s.Kind, s.Name)
	}
	if strings.ContainsFunc(s.Name, unicode.IsControl) {
		return subject, fmt.Errorf("%s %s: no name has a line break or tab", s.Kind, strconv.Quote(s.Name))
	}
	return subject, nil
}

func (s Subject) resolveAdmin() (authz.Subject, error) {
	if s.Kind == string(authz.Anonymous) {
		return authz.Subject{}, errAnonymousAdmin
	}
	return s.resolve()
}
