// Package authz decides who may do what: policies, who asks, and the decision, which
// depends on nothing else. How somebody proved who they are is package authn's.
package authz

import (
	"fmt"
	"slices"
	"strings"

	"github.com/eblume/caddy-registry/glob"
)

// Action is something that is done to a repository, or several of them.
type Action uint8

const (
	Read   Action = 1 << iota // pull, and list tags and referrers
	Create                    // push what is new, and tags that are not there yet
	Update                    // move tags to other content
	Delete                    // delete tags, manifests and blobs
)

// Push is what a push needs at least one of. Which one of them is only known when the
// tag is looked at.
const Push = Create | Update

var actionNames = []string{"read", "create", "update", "delete"}

// ParseAction returns the action that a word means.
func ParseAction(word string) (Action, error) {
	i := slices.Index(actionNames, word)
	if i < 0 {
		return 0, fmt.Errorf("unknown action %q: must be one of %s", word, strings.Join(actionNames, ", "))
	}
	return 1 << i, nil
}

// ParseActions returns the actions that words mean, at least one and none twice.
func ParseActions(words []string) (Action, error) {
	var all Action
	for _, word := range words {
		action, err := ParseAction(word)
		if err != nil {
			return 0, err
		}
		if all&action != 0 {
			return 0, fmt.Errorf("action %s is given twice", word)
		}
		all |= action
	}
	if all == 0 {
		return 0, fmt.Errorf("no action is given: name some of %s", strings.Join(actionNames, ", "))
	}
	return all, nil
}

// String returns the actions' words, with "or" between them.
func (a Action) String() string {
	var words []string
	for i, name := range actionNames {
		if a&(1<<i) != 0 {
			words = append(words, name)
		}
	}
	return strings.Join(words, " or ")
}

// Identity is somebody who is known. A nil one is anonymous.
type Identity struct {
	Name   string
	Groups []string
	// Scopes limit what may be done, as an API key's do. None: no limit.
	Scopes []Scope
}

// String returns the name, or anonymous.
func (i *Identity) String() string {
	if i == nil {
		return "anonymous"
	}
	return i.Name
}

// Scope is what an API key is limited to.
type Scope struct {
	Actions      Action
	Repositories glob.Set
}

// ParseScope returns the scope that a text such as read:blumeops/** or
// read,create:blumeops/** means.
func ParseScope(text string) (Scope, error) {
	words, pattern, ok := strings.Cut(text, ":")
	if !ok {
		return Scope{}, fmt.Errorf("scope %q: must be an action and a glob, such as create:team/**", text)
	}
	actions, err := ParseActions(strings.Split(words, ","))
	if err != nil {
		return Scope{}, fmt.Errorf("scope %q: %w", text, err)
	}
	repositories, err := glob.Parse([]string{pattern})
	if err != nil {
		return Scope{}, fmt.Errorf("scope %q: %w", text, err)
	}
	return Scope{actions, repositories}, nil
}

// maxAlternatives bounds what all scopes of a key cost with each decision: whoever makes
// the key chooses them.
const maxAlternatives = 100

// ParseScopes returns the scopes that texts mean.
func ParseScopes(texts []string) ([]Scope, error) {
	var scopes []Scope
	var alternatives float64
	for _, text := range texts {
		scope, err := ParseScope(text)
		if err != nil {
			return nil, err
		}
		if alternatives += scope.Repositories.Alternatives(); alternatives > maxAlternatives {
			return nil, fmt.Errorf("the scopes stand for over %d globs, braces written out", maxAlternatives)
		}
		scopes = append(scopes, scope)
	}
	return scopes, nil
}

// isFor reports whether the identity's scopes leave an action anywhere.
func (i *Identity) isFor(action Action) bool {
	return i == nil || len(i.Scopes) == 0 ||
		slices.ContainsFunc(i.Scopes, func(scope Scope) bool { return scope.Actions&action != 0 })
}

// limit returns those of some actions that the identity's scopes leave.
func (i *Identity) limit(actions Action, repository string) Action {
	if i == nil || len(i.Scopes) == 0 {
		return actions
	}
	var left Action
	for _, scope := range i.Scopes {
		if scope.Actions&actions&^left != 0 && scope.Repositories.Match(repository) {
			left |= scope.Actions & actions
		}
	}
	return left
}
