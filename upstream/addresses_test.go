package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestAddressesOfTheMachineAndItsCloudAreNotAsked(t *testing.T) {
	for _, target := range []string{"http://169.254.169.254/latest/meta-data", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://100.100.100.200", "http://192.0.0.192/", "http://[::ffff:169.254.169.254]/"} {
		for name, handler := range map[string]http.HandlerFunc{
			"redirect": func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, target, http.StatusTemporaryRedirect)
			},
			"realm": func(w http.ResponseWriter, _ *http.Request) { challenge(w, target) },
		} {
			url, _ := serve(t, handler)
			_, err := clientOf(t, Config{}, url).Manifest(t.Context(), "a", byTag("v1"))
			wantKind(t, err, ErrInvalid)
			if !strings.Contains(fmt.Sprint(err), "no upstream may lead") {
				t.Errorf("%s to %s: %v", name, target, err)
			}
		}
	}
}

func TestTheDialedAddressIsLookedAt(t *testing.T) {
	// What a name resolves to reaches the dialer's control as an address does.
	transport, err := newTransport(Config{}, addressGuard{})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"169.254.169.254:80", "[fe80::1%lo]:80", "[::ffff:169.254.0.1]:443"} {
		var refused refusedAddress
		if conn, err := transport.DialContext(t.Context(), "tcp", address); !errors.As(err, &refused) {
			t.Errorf("%s: %v, %v", address, conn, err)
		}
	}
	configured := addressGuard{[]netip.Addr{netip.MustParseAddr("169.254.1.2"), netip.MustParseAddr("fe80::1")}}
	for address, want := range map[string]bool{
		"169.254.1.2": false, "::ffff:169.254.1.2": false, "fe80::1%eth0": false, "169.254.1.3": true, "fe80::2%eth0": true,
		"64:ff9b::169.254.169.254": true, "127.0.0.1": false, "::1": false, "10.0.0.1": false, "192.168.1.1": false, "fd00::1": false, "1.1.1.1": false,
	} {
		if got := configured.refuses(netip.MustParseAddr(address)); got != want {
			t.Errorf("refuses(%s) = %v", address, got)
		}
	}
}
