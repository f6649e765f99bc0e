// Package glob matches names of repositories, tags and claims.
package glob

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

// Set is patterns of names, tags or other texts: * is anything but a slash, ** as a
// whole component any number of components, none included; ?, [a-z], [!a-z] and
// {this,that} are as in shells.
type Set []string

// signs are what a glob may have besides letters and digits. With a colon, for
// instance, it would match no name and no tag, and guard nothing.
const signs = "._-/*?[]{},!^"

// What matching takes grows with how many globs one stands for whose braces are written
// out. Whoever makes an API key chooses the globs of its scopes.
const (
	maxLength       = 4096 // bytes
	maxAlternatives = 100
)

// Parse returns globs of names or tags if each of them can match something, and says what
// is wrong with the first that cannot.
func Parse(globs []string) (Set, error) {
	return parse(globs, checkName)
}

// ParseText is Parse for globs of texts such as claims, which may have any printable
// character and slashes anywhere. What has a meaning in globs stands for itself behind a
// backslash.
func ParseText(globs []string) (Set, error) {
	return parse(globs, checkText)
}

func parse(globs []string, checkLetters func(glob string) error) (Set, error) {
	for _, glob := range globs {
		if err := check(glob, checkLetters); err != nil {
			return nil, err
		}
	}
	return globs, nil
}

func check(glob string, checkLetters func(glob string) error) error {
	if glob == "" {
		return errors.New("bad glob: it is empty")
	}
	if len(glob) > maxLength {
		return fmt.Errorf("bad glob %q...: it has over %d bytes", glob[:20], maxLength)
	}
	if glob[0] == '!' {
		return fmt.Errorf("bad glob %q: there is no negation", glob)
	}
	if err := checkLetters(glob); err != nil {
		return err
	}
	for component := range strings.SplitSeq(glob, "/") {
		// Elsewhere ** is no more than *, which is seldom what was meant.
		if component != "**" && strings.Contains(component, "**") {
			return fmt.Errorf("bad glob %q: ** must be all between two slashes", glob)
		}
	}
	if !doublestar.ValidatePattern(glob) {
		return fmt.Errorf("bad glob %q: brackets or braces are not closed", glob)
	}
	if alternatives(glob) > maxAlternatives {
		return fmt.Errorf("bad glob %q: its braces stand for over %d globs: write several", glob, maxAlternatives)
	}
	return nil
}

// Alternatives returns how many globs a set stands for at most, braces written out, which
// is what matching costs.
func (s Set) Alternatives() float64 {
	var all float64
	for _, glob := range s {
		all += alternatives(glob)
	}
	return all
}

// alternatives returns how many globs one with so many braces and commas stands for at
// most: for the most if each of the braces has as many commas as the others.
func alternatives(glob string) float64 {
	braces, commas := float64(strings.Count(glob, "{")), float64(strings.Count(glob, ","))
	if braces == 0 {
		return 1
	}
	return math.Pow(1+commas/braces, braces)
}

func checkName(glob string) error {
	for _, c := range glob {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(signs, c)) {
			return fmt.Errorf("bad glob %q: neither names nor tags have %q", glob, c)
		}
	}
	if strings.HasPrefix(glob, "/") || strings.HasSuffix(glob, "/") || strings.Contains(glob, "//") {
		return fmt.Errorf("bad glob %q: no name begins or ends with a slash, or has two in a row", glob)
	}
	return nil
}

func checkText(glob string) error {
	for _, c := range glob {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return fmt.Errorf("bad glob %q: %q cannot be printed", glob, c)
		}
	}
	return nil
}

// Match reports whether one of the globs, which must be those of Parse or ParseText,
// matches.
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
