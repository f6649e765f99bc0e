package authn

import (
	"bytes"
	"testing"
)

func TestWhatIsSealedIsOpenedOnlyWithItsKeyAndPurpose(t *testing.T) {
	sealer, other := newTestSealer(t), newTestSealer(t)
	secret := []byte("a refresh token")
	sealed := sealer.Seal(secret, forRefresh)
	if opened, err := sealer.Open(sealed, forRefresh); err != nil || !bytes.Equal(opened, secret) {
		t.Fatalf("%q, %v", opened, err)
	}
	if bytes.Contains(sealed, secret) || bytes.Equal(sealed, sealer.Seal(secret, forRefresh)) {
		t.Error("it can be read, or be told from another")
	}
	fails := func(name string, sealer *Sealer, sealed []byte, purpose string) {
		t.Helper()
		if opened, err := sealer.Open(sealed, purpose); err != errSealed || opened != nil {
			t.Errorf("%s: %q, %v", name, opened, err)
		}
	}
	fails("another key", other, sealed, forRefresh)
	for _, purpose := range []string{forSigning, forLogout, forLogin, ""} {
		fails("for "+purpose, sealer, sealed, purpose)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		fails("a changed byte", sealer, changed, forRefresh)
		fails("cut", sealer, sealed[:i], forRefresh)
	}
	fails("more", sealer, append(bytes.Clone(sealed), 0), forRefresh)
	fails("nothing", sealer, nil, forRefresh)
}

func TestWhatIsMissingStaysMissing(t *testing.T) {
	sealer := newTestSealer(t)
	if sealed := sealer.sealText("", forRefresh); sealed != nil {
		t.Errorf("%x", sealed)
	}
	if opened, err := sealer.Open(sealer.sealText("x", forRefresh), forRefresh); err != nil || string(opened) != "x" {
		t.Errorf("%q, %v", opened, err)
	}
}

func TestAKeyForSecretsOfAnotherLengthIsRefused(t *testing.T) {
	for _, size := range []int{0, 16, 24, 31, 33, 64} {
		if _, err := NewSealer(make([]byte, size)); err == nil {
			t.Errorf("%d bytes are taken", size)
		}
	}
}

func TestSecretsAreNotGuessable(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		if secret := newSecret(); len(secret) < 50 || seen[secret] {
			t.Fatalf("%q", secret)
		} else {
			seen[secret] = true
		}
	}
}
