package upstream

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
)

// ErrNotAllowed means that an upstream is not asked for a repository, because its allow
// and deny rules say so.
var ErrNotAllowed = errors.New("not allowed by the rules of the cache")

// Globs are patterns of names or tags: * is anything but a slash, ** as a whole
// component any number of components, none included; ?, [a-z], [!a-z] and {this,that}
// are as in shells.
type Globs []string

// globSigns are what a glob may have besides letters and digits. With a colon, for
// instance, it would match no name and no tag, and guard nothing.
const globSigns = "._-/*?[]{},!^"

// ParseGlobs returns globs if each of them can match something, and says what is wrong
// with the first that cannot.
func ParseGlobs(globs []string) (Globs, error) {
	for _, glob := range globs {
		if err := checkGlob(glob); err != nil {
			return nil, err
		}
	}
	return globs, nil
}

func checkGlob(glob string) error {
	if glob == "" {
		return errors.New("bad glob: it is empty")
	}
	if glob[0] == '!' {
		return fmt.Errorf("bad glob %q: there is no negation", glob)
	}
	for _, c := range glob {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(globSigns, c)) {
			return fmt.Errorf("bad glob %q: neither names nor tags have %q", glob, c)
		}
	}
	for component := range strings.SplitSeq(glob, "/") {
		if component == "" {
			return fmt.Errorf("bad glob %q: no name begins or ends with a slash, or has two in a row", glob)
		}
		// Elsewhere ** is no more than *, which is seldom what was meant.
		if component != "**" && strings.Contains(component, "**") {
			return fmt.Errorf("bad glob %q: ** must be all between two slashes", glob)
		}
	}
	if !doublestar.ValidatePattern(glob) {
		return fmt.Errorf("bad glob %q: brackets or braces are not closed", glob)
	}
	return nil
}

// Match reports whether one of the globs, which must be those of ParseGlobs, matches.
func (g Globs) Match(name string) bool {
	_, ok := g.find(name)
	return ok
}

func (g Globs) find(name string) (glob string, ok bool) {
	for _, glob := range g {
		if doublestar.MatchUnvalidated(glob, name) {
			return glob, true
		}
	}
	return "", false
}

// freshByDefault is how long a tag is fresh that no rule names.
const freshByDefault = time.Minute

// Freshness tells how long what an upstream said of a tag is served without asking it again.
type Freshness []FreshRule

// FreshRule is how long some tags are fresh.
type FreshRule struct {
	// Tags are globs of the tags; if there are none, all tags that no other rule names.
	Tags Globs
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
	Allow Globs
	// Deny are exceptions from Allow.
	Deny Globs
}

// Check returns [ErrNotAllowed], with the rule that decided, unless the upstream may be
// asked for a repository, such as library/nginx. A tag, which may be empty, is only told
// with it: rules about tags would not hold, since any content can be had by its digest.
func (a Access) Check(remote, tag string) error {
	if glob, denied := a.Deny.find(remote); denied {
		return fmt.Errorf("%w: %s: deny %s", ErrNotAllowed, withTag(remote, tag), glob)
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
