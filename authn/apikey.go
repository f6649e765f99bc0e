package authn

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"math/big"
	"strings"
)

// API keys are crk_, 32 random letters and digits, and 6 more that are the checksum of
// those: a key that was cut or mistyped is told from one that is unknown, and scanners
// that look for leaked secrets can be sure of what they find.
const (
	keyPrefix      = "crk_"
	keySecret      = 32
	keyChecksum    = 6
	importedPrefix = "zak_" // zot's, of which only the hash is known
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

var errKeyMalformed = errors.New("the API key is not whole: it was cut off or mistyped")

// newKey returns a new API key.
func newKey() string {
	secret := make([]byte, keySecret)
	for i := range secret {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(base62))))
		if err != nil {
			panic(err) // crypto/rand never fails
		}
		secret[i] = base62[n.Int64()]
	}
	return keyPrefix + string(secret) + checksum(string(secret))
}

func checksum(secret string) string {
	sum := crc32.ChecksumIEEE([]byte(secret))
	var text [keyChecksum]byte
	for i := range text {
		text[keyChecksum-1-i] = base62[sum%62]
		sum /= 62
	}
	return string(text[:])
}

// isKey reports whether a password is meant to be an API key.
func isKey(password string) bool {
	return strings.HasPrefix(password, keyPrefix) || strings.HasPrefix(password, importedPrefix)
}

// HashKey returns what is kept of an API key. There is no salt and nothing slow: what is
// hashed is not guessable.
func HashKey(key string) ([32]byte, error) {
	if secret, ok := strings.CutPrefix(key, importedPrefix); ok {
		return sha256.Sum256([]byte(secret)), nil
	}
	secret, ok := strings.CutPrefix(key, keyPrefix)
	if !ok || len(secret) != keySecret+keyChecksum || checksum(secret[:keySecret]) != secret[keySecret:] {
		return [32]byte{}, errKeyMalformed
	}
	return sha256.Sum256([]byte(key)), nil
}
