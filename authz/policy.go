package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/eblume/caddy-registry/glob"
)

// Kind tells whom a line of a policy is about.
type Kind string

const (
	Anonymous     Kind = "anonymous"     // everybody, known or not
	Authenticated Kind = "authenticated" // everybody who is known
	User          Kind = "user"          // one by name
	Group         Kind = "group"         // all of a group
)

// Subject is whom a line of a policy is about.
type Subject struct {
	Kind Kind
	Name string // of the user or group
}

// Check reports why there is no such subject.
func (s Subject) Check() error {
	switch s.Kind {
	case Anonymous, Authenticated:
		if s.Name != "" {
			return fmt.Errorf("%s takes no name", s.Kind)
		}
		return nil
	case User, Group:
		if s.Name == "" {
			return fmt.Errorf("%s needs a name", s.Kind)
		}
		return nil
	}
	return fmt.Errorf("unknown subject %q: must be one of anonymous, authenticated, user, group", s.Kind)
}

// Includes reports whether who is meant.
func (s Subject) Includes(who *Identity) bool {
	switch s.Kind {
	case Anonymous:
		return true
	case Authenticated:
		return who != nil
	case User:
		return who != nil && who.Name == s.Name
	case Group:
		return who != nil && slices.Contains(who.Groups, s.Name)
	}
	return false
}

// Rule is a line of a policy: what somebody may do.
type Rule struct {
	Subject
	Actions Action
	// Tags are globs of the tags that the actions are allowed for; if there are none, all.
	Tags glob.Set
	// Line is the rule as it was written.
	Line string
}

// Check reports why a rule means nothing.
func (r Rule) Check() error {
	if err := r.Subject.Check(); err != nil {
		return err
	}
	if r.Actions == 0 {
		return errors.New("no action is given")
	}
	if len(r.Tags) > 0 && r.Actions&Read != 0 {
		return errors.New("read cannot be limited to tags, since all content can be read by its digest")
	}
	return nil
}

// AnyTag stands for some tag that is not known yet: it is enough if an action is allowed
// for one.
const AnyTag = "*"

// allows reports whether the rule allows one of the actions for a tag. Without a tag
// what is done concerns all of them.
func (r *Rule) allows(actions Action, tag string) bool {
	if r.Actions&actions == 0 {
		return false
	}
	return len(r.Tags) == 0 || tag == AnyTag || tag != "" && r.Tags.Match(tag)
}

// Policy is what is allowed in some repositories.
type Policy struct {
	// Repositories are globs of their names.
	Repositories glob.Set
	Rules        []Rule
}

// String returns the policy's first line.
func (p *Policy) String() string { return "policy " + strings.Join(p.Repositories, " ") }

// Policies decide in order: the first that names a repository does, and where none does
// nothing is allowed.
type Policies []Policy

// Decision is whether something is allowed, and what decided.
type Decision struct {
	Allowed bool
	// Policy is the one that names the repository, nil if none does.
	Policy *Policy
	// Rule is the line that allows it, nil if it is denied.
	Rule *Rule
	// Limited is set if a line allows it, but not the scopes of an API key.
	Limited bool

	who        *Identity
	actions    Action
	repository string
	tag        string
}

// Decide tells whether who may do one of the actions. With a tag that is the one it is
// done to; [AnyTag] asks for some tag, and an empty one for the repository whatever its tags.
func (p Policies) Decide(who *Identity, actions Action, repository, tag string) Decision {
	d := Decision{who: who, actions: actions, repository: repository, tag: tag}
	d.Policy = p.find(repository)
	if d.Policy == nil {
		return d
	}
	left := who.limit(actions, repository)
	for i := range d.Policy.Rules {
		rule := &d.Policy.Rules[i]
		if !rule.Includes(who) {
			continue
		}
		if rule.allows(left, tag) {
			d.Allowed, d.Limited, d.Rule = true, false, rule
			return d
		}
		d.Limited = d.Limited || rule.allows(actions, tag)
	}
	return d
}

func (p Policies) find(repository string) *Policy {
	for i := range p {
		if p[i].Repositories.Match(repository) {
			return &p[i]
		}
	}
	return nil
}

// Names reports whether a policy names a repository by more than that it is one.
func (p Policies) Names(repository string) bool {
	for i := range p {
		for _, pattern := range p[i].Repositories {
			if pattern != "**" && (glob.Set{pattern}).Match(repository) {
				return true
			}
		}
	}
	return false
}

// ReadsAnything reports whether who may read some repository, of which it is not known
// whether it is there.
func (p Policies) ReadsAnything(who *Identity) bool {
	if !who.isFor(Read) {
		return false
	}
	for i := range p {
		for j := range p[i].Rules {
			if rule := &p[i].Rules[j]; rule.Actions&Read != 0 && rule.Includes(who) {
				return true
			}
		}
	}
	return false
}

// String says in a line what is decided and by what.
func (d Decision) String() string {
	target := fmt.Sprintf("%q", d.repository)
	if d.tag != "" && d.tag != AnyTag {
		target = fmt.Sprintf("%q", d.repository+":"+d.tag)
	}
	switch {
	case d.Allowed:
		return fmt.Sprintf("%s may %s %s: %s { %s }", d.who, d.actions, target, d.Policy, d.Rule.Line)
	case d.Policy == nil:
		return fmt.Sprintf("%s may not %s %s: no policy names it", d.who, d.actions, target)
	case d.Limited:
		return fmt.Sprintf("%s may not %s %s: the API key's scopes do not include it", d.who, d.actions, target)
	}
	return fmt.Sprintf("%s may not %s %s: %s { %s }", d.who, d.actions, target, d.Policy, d.lines())
}

// lines returns what the policy that decided allows who asked.
func (d Decision) lines() string {
	var lines []string
	for i := range d.Policy.Rules {
		if rule := &d.Policy.Rules[i]; rule.Includes(d.who) {
			lines = append(lines, rule.Line)
		}
	}
	if lines == nil {
		return "nothing for " + d.who.String()
	}
	return strings.Join(lines, "; ")
}
