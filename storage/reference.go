package storage

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"strings"

	"github.com/opencontainers/go-digest"
)

// MaxNameLength is the longest repository name, in bytes. Clients allow 255 for host
// and name together (distribution-spec, "Pulling manifests").
const MaxNameLength = 255

// MaxTagLength is the longest tag, in bytes.
const MaxTagLength = 128

// CheckName reports with [ErrNameInvalid] why name is not a repository name.
func CheckName(name string) error {
	if len(name) > MaxNameLength {
		return fmt.Errorf("%w: it has %d characters, at most %d are allowed", ErrNameInvalid, len(name), MaxNameLength)
	}
	if !isName(name) {
		return fmt.Errorf("%w: %q must be lower-case letters and digits, separated by '.', '_', '__', '-' or '/'", ErrNameInvalid, name)
	}
	return nil
}

// CheckTag reports with [ErrTagInvalid] why tag is not a tag.
func CheckTag(tag string) error {
	if len(tag) > MaxTagLength {
		return fmt.Errorf("%w: it has %d characters, at most %d are allowed", ErrTagInvalid, len(tag), MaxTagLength)
	}
	if !isTag(tag) {
		return fmt.Errorf("%w: %q must begin with a letter, a digit or '_' and go on with those, '.' and '-'", ErrTagInvalid, tag)
	}
	return nil
}

// isName reports whether s matches
//
//	[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
//
// the spec's grammar of names. It is read by hand, as that of tags is, since this is
// done for every request and package regexp takes some percent of a pull's time.
func isName(s string) bool {
	for i := 0; i < len(s); {
		word := i
		for i < len(s) && (isLower(s[i]) || isDigit(s[i])) {
			i++
		}
		if i == word {
			return false
		}
		if i == len(s) {
			return true
		}
		switch s[i] {
		case '/', '.':
			i++
		case '_':
			i++
			if i < len(s) && s[i] == '_' {
				i++
			}
		case '-':
			for i < len(s) && s[i] == '-' {
				i++
			}
		default:
			return false
		}
	}
	return false // it is empty, or ends with a separator
}

// isTag reports whether s matches [a-zA-Z0-9_][a-zA-Z0-9._-]*
func isTag(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case isLower(c), isDigit(c), c >= 'A' && c <= 'Z', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return s != ""
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// ParseDigest returns s as a digest of an algorithm that the registry keeps content
// by, sha256 or sha512, or [ErrDigestInvalid].
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("%w: %q: %w", ErrDigestInvalid, s, err)
	}
	if _, err := newHash(d.Algorithm()); err != nil {
		return "", err
	}
	return d, nil
}

// ParseAlgorithm returns s as the algorithm of an upload; empty means sha256.
func ParseAlgorithm(s string) (digest.Algorithm, error) {
	if s == "" {
		return digest.SHA256, nil
	}
	a := digest.Algorithm(s)
	_, err := newHash(a)
	return a, err
}

// newHash returns a hash of algorithm a whose state can be marshaled, so that an
// upload can go on in another process.
func newHash(a digest.Algorithm) (hash.Hash, error) {
	switch a {
	case digest.SHA256:
		return sha256.New(), nil
	case digest.SHA512:
		return sha512.New(), nil
	}
	return nil, fmt.Errorf("%w: algorithm %q is not supported, use sha256 or sha512", ErrDigestInvalid, a)
}

// Reference is what comes behind /manifests/: a digest or a tag, the other being empty.
type Reference struct {
	Tag    string
	Digest digest.Digest
}

// ParseReference returns s as a digest if it has a colon, which a tag never has, and
// as a tag otherwise.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	return Reference{Tag: s}, CheckTag(s)
}

// String returns the tag or digest.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}
