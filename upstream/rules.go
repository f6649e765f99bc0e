package upstream

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/eblume/caddy-registry/glob"
)

// ErrNotAllowed means that an upstream is not asked for a repository, because its allow
// and deny rules say so.
var ErrNotAllowed = errors.New("not allowed by the rules of the cache")

// freshByDefault is how long a tag is fresh that no rule names.
const freshByDefault = time.Minute

// Freshness tells how long what an upstream said of a tag is served without asking it again.
type Freshness []FreshRule

// FreshRule is how long some tags are fresh.
type FreshRule struct {
	// Tags are globs of the tags; if there are none, all tags that no other rule names.
	Tags glob.Set
	// For is how long.
	For time.Duration
	// Forever means that the upstream is not asked again, whatever For is.
	Forever bool
}

// For returns how long a tag is fresh, by the first rule that names it.
func (f Freshness) For(tag string) (d time.Duration, forever bool) {
	rest := FreshRule{For: freshByDefault}
	for _, rule := range f {
		if len(rule.Tags) == 0 {
			rest = rule
		} else if rule.Tags.Match(tag) {
			return rule.For, rule.Forever
		}
	}
	return rest.For, rest.Forever
}

// Access tells what an upstream is asked for, by the upstream's own names.
type Access struct {
	// Allow are the repositories that may be asked for; if there are none, all.
	Allow glob.Set
	// Deny are exceptions from Allow.
	Deny glob.Set
}

// Check returns [ErrNotAllowed], with the rule that decided, unless the upstream may be
// asked for a repository, such as library/nginx. A tag, which may be empty, is only told
// with it: rules about tags would not hold, since any content can be had by its digest.
func (a Access) Check(remote, tag string) error {
	if rule, denied := a.Deny.Find(remote); denied {
		return fmt.Errorf("%w: %s: deny %s", ErrNotAllowed, withTag(remote, tag), rule)
	}
	if len(a.Allow) > 0 && !a.Allow.Match(remote) {
		return fmt.Errorf("%w: %s: only allow %s", ErrNotAllowed, withTag(remote, tag), strings.Join(a.Allow, " "))
	}
	return nil
}

func withTag(remote, tag string) string {
	if tag == "" {
		return remote
	}
	return remote + ":" + tag
}
