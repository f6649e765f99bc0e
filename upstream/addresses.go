package upstream

import (
	"net/netip"
	"slices"
	"syscall"
)

// notUpstream are addresses that only the machine itself or its cloud answers on, some
// with the machine's own credentials. An upstream, or whoever answers for its name in
// DNS, must not lead there.
var notUpstream = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), // link-local; AWS, Azure, Google and others
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::/32"),       // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),    // Google
	netip.MustParsePrefix("100.100.100.200/32"),  // Alibaba
	netip.MustParsePrefix("192.0.0.192/32"),      // Oracle
	netip.MustParsePrefix("168.63.129.16/32"),    // Azure
	netip.MustParsePrefix("64:ff9b::a9fe:0/112"), // 169.254.0.0/16 through NAT64
	netip.MustParsePrefix("64:ff9b::6464:64c8/128"),
	netip.MustParsePrefix("64:ff9b::c000:c0/128"),
	netip.MustParsePrefix("64:ff9b::a83f:8110/128"),
}

// addressGuard refuses to connect to the addresses of notUpstream, but for those that
// a configured URL has literally.
type addressGuard struct{ configured []netip.Addr }

func (g addressGuard) refuses(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("") // no prefix contains an address with a zone
	return !slices.Contains(g.configured, addr) &&
		slices.ContainsFunc(notUpstream, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// control is [net.Dialer]'s Control. It sees the address that is really dialed, which
// no second look-up of the name can change.
func (g addressGuard) control(_, address string, _ syscall.RawConn) error {
	dialed, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if g.refuses(dialed.Addr()) {
		return refusedAddress(dialed.Addr())
	}
	return nil
}

type refusedAddress netip.Addr

func (a refusedAddress) Error() string {
	return netip.Addr(a).String() + " is an address of the machine or its cloud, which no upstream may lead to"
}
