// Package glob matches names of repositories, tags and claims.
package glob

import (
	"errors"
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Set is patterns of names or tags: * is anything but a slash, ** as a whole
// component any number of components, none included; ?, [a-z], [!a-z] and {this,that}
// are as in shells.
type Set []string

// signs are what a glob may have besides letters and digits. With a colon, for
// instance, it would match no name and no tag, and guard nothing.
const signs = "._-/*?[]{},!^"

// Parse returns globs if each of them can match something, and says what is wrong
// with the first that cannot.
func Parse(globs []string) (Set, error) {
	for _, glob := range globs {
		if err := check(glob); err != nil {
			return nil, err
		}
	}
	return globs, nil
}

func check(glob string) error {
	if glob == "" {
		return errors.New("bad glob: it is empty")
	}
	if glob[0] == '!' {
		return fmt.Errorf("bad glob %q: there is no negation", glob)
	}
	for _, c := range glob {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(signs, c)) {
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

// Match reports whether one of the globs, which must be those of Parse, matches.
func (s Set) Match(name string) bool {
	_, ok := s.Find(name)
	return ok
}

// Find returns the first of the globs that matches.
func (s Set) Find(name string) (glob string, ok bool) {
	for _, glob := range s {
		if doublestar.MatchUnvalidated(glob, name) {
			return glob, true
		}
	}
	return "", false
}
