package authn

import (
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"regexp"
	"strings"
	"testing"
)

// Scanners for leaked secrets, and keys that were handed out, rely on these.
func TestTheFormatOfAPIKeysStays(t *testing.T) {
	format := regexp.MustCompile(`^crk_[0-9A-Za-z]{38}$`)
	seen := map[string]bool{}
	for range 100 {
		key := newKey()
		if !format.MatchString(key) || !isKey(key) || seen[key] {
			t.Fatalf("key %q", key)
		}
		seen[key] = true
		hash, err := HashKey(key)
		if err != nil || hash != sha256.Sum256([]byte(key)) {
			t.Fatalf("hash %x, %v", hash, err)
		}
	}
	const known = "crk_0123456789ABCDEFGHIJKLMNOPQRSTUV"
	if got := known + checksum(known[len(keyPrefix):]); got != known+"1ggZdL" {
		t.Errorf("the checksum of a known key makes it %s", got)
	}
	if _, err := HashKey(known + "1ggZdL"); err != nil {
		t.Error(err)
	}
}

// The checksum is a CRC-32 to the base of 62, the most significant digit first.
func TestTheChecksumIsAllOfTheCRC(t *testing.T) {
	for _, secret := range []string{"", "a", newKey()} {
		var sum uint64
		for _, digit := range checksum(secret) {
			sum = sum*62 + uint64(strings.IndexRune(base62, digit))
		}
		if want := uint64(crc32.ChecksumIEEE([]byte(secret))); sum != want {
			t.Errorf("checksum of %q is %d, want %d", secret, sum, want)
		}
	}
}

func TestAKeyThatWasMistypedIsToldFromOneThatIsUnknown(t *testing.T) {
	key := newKey()
	wrong := func(name, text string) {
		t.Helper()
		if hash, err := HashKey(text); !errors.Is(err, errKeyMalformed) || hash != ([32]byte{}) {
			t.Errorf("%s: %q is taken for whole", name, text)
		}
	}
	for i := range key {
		for _, c := range base62 + "_- \n\x00" {
			if rune(key[i]) != c {
				wrong("changed", key[:i]+string(c)+key[i+1:])
			}
		}
		for j := range key[:i] {
			if key[i] != key[j] {
				swapped := []byte(key)
				swapped[i], swapped[j] = swapped[j], swapped[i]
				wrong("swapped", string(swapped))
			}
		}
		wrong("cut", key[:i])
		wrong("without one", key[:i]+key[i+1:])
		wrong("with one twice", key[:i+1]+key[i:])
	}
	wrong("case", strings.ToUpper(key))
	wrong("quoted", `"`+key+`"`)
	wrong("a line", key+"\n")
	wrong("another kind", "ghp_"+key[4:])
	wrong("none", "")
}

func TestImportedKeysAreHashedWithoutTheirPrefix(t *testing.T) {
	const secret = "b0c8d7be-5f3d-4f43-9d3e-0a6c3f0e1c9a"
	hash, err := HashKey("zak_" + secret)
	if err != nil || hash != sha256.Sum256([]byte(secret)) || !isKey("zak_"+secret) {
		t.Errorf("hash %x, %v", hash, err)
	}
}

func TestWhatIsMeantToBeAKey(t *testing.T) {
	for text, want := range map[string]bool{
		"crk_": true, "zak_": true, "crk_cut": true, "crk": false, "": false, "Crk_x": false, " crk_x": false, "eyJ.eyJ.x": false,
	} {
		if isKey(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
