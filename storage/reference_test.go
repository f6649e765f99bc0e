package storage_test

import (
	"errors"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/eblume/caddy-registry/storage"
)

func TestCheckName(t *testing.T) {
	long := strings.Repeat("a/", 127) + "a" // 255 bytes
	for _, name := range []string{"a", "0", "a/b", "a/b/c", "docker.io/library/alpine", "a.b", "a_b", "a__b", "a-b", "a---b", "10.0.0.1/x", long} {
		if err := storage.CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	for _, name := range []string{
		"", "/", "a/", "/a", "a//b", "A", "a/B", ".", "..", "a/..", "../a", "a/./b", ".a", "a.", "a..b", "_a", "a_", "a___b", "a._b", "-a", "a-",
		"a b", "a\n", "a\x00", "a%2fb", `a\b`, "a:b", "a@b", "\u00e4", "\u212a", long + "a",
	} {
		if err := storage.CheckName(name); !errors.Is(err, storage.ErrNameInvalid) {
			t.Errorf("CheckName(%q) = %v, want %v", name, err, storage.ErrNameInvalid)
		}
	}
}

func TestParseReference(t *testing.T) {
	sha256, sha512 := digest.SHA256.FromString("a"), digest.SHA512.FromString("a")
	long := strings.Repeat("a", 128)
	for s, want := range map[string]storage.Reference{
		"latest": {Tag: "latest"}, "_": {Tag: "_"}, "V1.0-x_y": {Tag: "V1.0-x_y"}, "0": {Tag: "0"}, "a..b": {Tag: "a..b"}, long: {Tag: long},
		"sha256-" + sha256.Encoded() + ".sig": {Tag: "sha256-" + sha256.Encoded() + ".sig"},
		sha256.String():                       {Digest: sha256},
		sha512.String():                       {Digest: sha512},
	} {
		got, err := storage.ParseReference(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("ParseReference(%q) = %+v (%s), %v, want %+v", s, got, got, err, want)
		}
	}
	for s, want := range map[string]error{
		"": storage.ErrTagInvalid, ".a": storage.ErrTagInvalid, "-a": storage.ErrTagInvalid, "a/b": storage.ErrTagInvalid, "a b": storage.ErrTagInvalid,
		"a\n": storage.ErrTagInvalid, "\u00e4": storage.ErrTagInvalid, "..": storage.ErrTagInvalid, "a@b": storage.ErrTagInvalid, long + "a": storage.ErrTagInvalid,
		":": storage.ErrDigestInvalid, "a:b": storage.ErrDigestInvalid, "sha256:": storage.ErrDigestInvalid, "sha256:abc": storage.ErrDigestInvalid,
		sha256.String() + "0":                              storage.ErrDigestInvalid,
		"sha256:" + strings.ToUpper(sha256.Encoded()):      storage.ErrDigestInvalid,
		"sha256:" + sha256.Encoded()[:63] + "g":            storage.ErrDigestInvalid,
		"sha256:" + sha256.Encoded()[:63] + "\n":           storage.ErrDigestInvalid,
		"sha512:" + sha256.Encoded():                       storage.ErrDigestInvalid,
		"sha384:" + digest.SHA384.FromString("").Encoded(): storage.ErrDigestInvalid,
		"md5:0123456789abcdef0123456789abcdef":             storage.ErrDigestInvalid,
		"latest@" + sha256.String():                        storage.ErrDigestInvalid,
	} {
		if got, err := storage.ParseReference(s); !errors.Is(err, want) {
			t.Errorf("ParseReference(%q) = %+v, %v, want %v", s, got, err, want)
		}
	}
}

func TestParseAlgorithm(t *testing.T) {
	for s, want := range map[string]digest.Algorithm{"": digest.SHA256, "sha256": digest.SHA256, "sha512": digest.SHA512} {
		if got, err := storage.ParseAlgorithm(s); err != nil || got != want {
			t.Errorf("ParseAlgorithm(%q) = %s, %v, want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"sha384", "md5", "SHA256", "sha256:", " "} {
		if got, err := storage.ParseAlgorithm(s); !errors.Is(err, storage.ErrDigestInvalid) {
			t.Errorf("ParseAlgorithm(%q) = %s, %v, want %v", s, got, err, storage.ErrDigestInvalid)
		}
	}
}

// TestNames builds names and tags by the distribution spec's grammar.
func TestNames(t *testing.T) {
	part := rapid.StringMatching(`[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,5}){0,3}`)
	tag := rapid.StringMatching(`[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`)
	rapid.Check(t, func(t *rapid.T) {
		name := strings.Join(rapid.SliceOfN(part, 1, 5).Draw(t, "name"), "/")
		if err := storage.CheckName(name); err != nil {
			t.Errorf("CheckName: %v", err)
		}
		s := tag.Draw(t, "tag")
		if ref, err := storage.ParseReference(s); err != nil || ref.Tag != s || ref.Digest != "" {
			t.Errorf("ParseReference = %+v, %v", ref, err)
		}
	})
}

// The distribution spec's grammars, with the lengths that it allows.
var (
	specName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	specTag  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// TestNamesAreTheSpecs compares what is taken with the spec's grammar, on texts that are
// nearly names and tags.
func TestNamesAreTheSpecs(t *testing.T) {
	text := rapid.StringMatching(`[abzAZ09/._-]{0,12}[a\n:%é]?`)
	rapid.Check(t, func(t *rapid.T) {
		s := text.Draw(t, "text")
		if got, want := storage.CheckName(s) == nil, specName.MatchString(s); got != want {
			t.Errorf("CheckName(%q) takes it: %t, the spec: %t", s, got, want)
		}
		if got, want := storage.CheckTag(s) == nil, specTag.MatchString(s); got != want {
			t.Errorf("CheckTag(%q) takes it: %t, the spec: %t", s, got, want)
		}
	})
}

// FuzzCheckName checks that a name is the spec's, and that it leads nowhere but down when it is used as a path.
func FuzzCheckName(f *testing.F) {
	for _, name := range []string{"a", "a/b", "docker.io/library/alpine", "a__b", "a---b", "a/../b", "A", "", "a\n"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if got, want := storage.CheckName(name) == nil, specName.MatchString(name) && len(name) <= storage.MaxNameLength; got != want {
			t.Errorf("%q is a name: %t, the spec: %t", name, got, want)
		}
		if err := storage.CheckName(name); err != nil {
			if !errors.Is(err, storage.ErrNameInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if name == "" || len(name) > storage.MaxNameLength || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-/") != "" {
			t.Errorf("%q is a name", name)
		}
		if path.Clean("/"+name) != "/"+name {
			t.Errorf("as a path %q is %q", name, path.Clean("/"+name))
		}
		for _, part := range strings.Split(name, "/") {
			if part == "" || strings.ContainsRune("._-", rune(part[0])) || strings.ContainsRune("._-", rune(part[len(part)-1])) {
				t.Errorf("%q has the part %q", name, part)
			}
		}
	})
}

// FuzzParseReference checks that a reference is a tag or a digest, and itself again as text.
func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"latest", "_", "a..b", "", "a/b", "sha256:abc", "x:y", digest.SHA256.FromString("").String(), digest.SHA512.FromString("").String()} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := storage.ParseReference(s)
		if err != nil {
			if !errors.Is(err, storage.ErrTagInvalid) && !errors.Is(err, storage.ErrDigestInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if ref.String() != s || (ref.Tag == "") == (ref.Digest == "") {
			t.Errorf("%q is %+v", s, ref)
		}
		if strings.ContainsAny(s, "/\\ \n\x00") || s == "." || s == ".." {
			t.Errorf("%q is a reference", s)
		}
	})
}

// FuzzParseDigest checks that what is taken can stand in a path.
func FuzzParseDigest(f *testing.F) {
	for _, s := range []string{digest.SHA256.FromString("").String(), digest.SHA512.FromString("").String(), "sha256:", "sha256:../..", "sha384:0", "a+b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := storage.ParseDigest(s)
		if err != nil {
			if !errors.Is(err, storage.ErrDigestInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if d.String() != s || d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
			t.Errorf("%q is %q", s, d)
		}
		if len(d.Encoded()) != 2*d.Algorithm().Size() || strings.Trim(d.Encoded(), "0123456789abcdef") != "" {
			t.Errorf("%q is a digest", s)
		}
	})
}
