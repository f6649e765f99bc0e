package authn

import (
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

const (
	failuresBurst = 20              // attempts that fail at once
	failuresEvery = time.Second     // and then one in
	failureWait   = 5 * time.Second // the longest that one is kept waiting; beyond it is refused
	addresses     = 10_000          // that are remembered
)

// Throttle slows down addresses whose attempts to prove who they are fail. Others, those
// of the same address that succeed among them, are never slowed down.
type Throttle struct {
	limits *lru.Cache[netip.Prefix, *rate.Limiter]
}

// NewThrottle returns one that remembers nothing.
func NewThrottle() *Throttle {
	limits, err := lru.New[netip.Prefix, *rate.Limiter](addresses)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &Throttle{limits}
}

// Failed counts a failure and returns how long its answer is to wait. ok is false if
// that is longer than any answer waits: it is to be refused.
func (t *Throttle) Failed(address string, now time.Time) (wait time.Duration, ok bool) {
	network := networkOf(address)
	limiter, found := t.limits.Get(network)
	if !found {
		limiter = rate.NewLimiter(rate.Every(failuresEvery), failuresBurst)
		if previous, found, _ := t.limits.PeekOrAdd(network, limiter); found {
			limiter = previous
		}
	}
	reservation := limiter.ReserveN(now, 1)
	wait = reservation.DelayFrom(now)
	if wait > failureWait {
		reservation.CancelAt(now)
		return wait, false
	}
	return wait, true
}

// networkOf returns what one client can be all addresses of: of IPv6 that is a /64.
func networkOf(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{} // all that are unknown share one
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		panic(err) // both lengths are those of their families
	}
	return network
}
