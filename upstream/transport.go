package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	maxRedirects = 10
	// tokenTimeout is longer than a dial, a handshake and the wait for an answer, whose
	// own limits tell more.
	tokenTimeout = time.Minute
	// maxTokens are kept for each endpoint, one for each repository. A token has some
	// kilobytes, and whoever may ask for any name makes as many as they like.
	maxTokens = 1000
)

// newTransport returns the connections to an upstream's URLs and to where they lead.
func newTransport(config Config, addresses addressGuard) (*http.Transport, error) {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second, Control: addresses.control}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  30 * time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxConnsPerHost:        100,
		MaxIdleConnsPerHost:    16,
		MaxResponseHeaderBytes: 256 << 10,
		// Bytes must arrive as they are stored, since their digest is of those.
		DisableCompression: true,
		ForceAttemptHTTP2:  true,
		// Without pings a connection whose other end went silently is used until TCP
		// gives up, which takes a quarter of an hour.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	if config.dial != nil {
		transport.Proxy, transport.DialContext = nil, config.dial
	}
	if config.CAFile != "" {
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		pem, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate in PEM", config.CAFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return transport, nil
}

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

// observedTransport counts the requests to an endpoint, its token service and where it
// leads, and takes note of what the answers say of limits.
type observedTransport struct {
	endpoint  *endpoint
	addresses addressGuard
	next      http.RoundTripper
}

func (t observedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	e, host := t.endpoint, req.URL.Host
	if (req.URL.Scheme != "https" && req.URL.Scheme != "http") || host == "" {
		return nil, e.fail(ErrInvalid, "%s leads to %q, which is no address of a server", e.base.Host, req.URL.Scheme+"://"+host)
	}
	// A proxy would dial it where the dialer's control does not see it.
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil && t.addresses.refuses(addr) {
		return nil, e.fail(ErrInvalid, "%v", refusedAddress(addr))
	}
	ctx, cancel := context.WithCancel(req.Context())
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		if errors.Is(req.Context().Err(), context.Canceled) {
			e.metrics.Request("canceled") // nobody waits for it any more; the upstream did nothing wrong
			return nil, err
		}
		e.metrics.Request("error")
		return nil, e.unreachable(host, err)
	}
	e.metrics.Request(strconv.Itoa(resp.StatusCode))
	if resp.StatusCode == http.StatusTooManyRequests {
		e.pause(parseRetryAfter(resp.Header))
	}
	if host == e.base.Host {
		e.quota.observe(resp.Header, e.metrics.RateLimitRemaining)
	}
	resp.Request, resp.Body = req, e.watch(req, cancel, resp.Body)
	return resp, nil
}

// unreachable returns what it means that a request got no answer.
func (e *endpoint) unreachable(host string, err error) error {
	var refused refusedAddress
	var timeout net.Error
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refused):
		return e.fail(ErrInvalid, "%s: %v", host, refused)
	case errors.As(err, &timeout) && timeout.Timeout():
		return e.fail(ErrTimeout, "%s: %v", host, err)
	case errors.As(err, &certificate):
		return e.fail(ErrUnavailable, "%s: %v (ca_file names further certificate authorities)", host, err)
	}
	return e.fail(ErrUnavailable, "%s: %v", host, err)
}

// checkRedirect is [http.Client]'s CheckRedirect. The auth client has taken credentials
// away by then if the redirect leaves the endpoint's scheme, host and port.
func (e *endpoint) checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	if len(via) >= maxRedirects {
		return e.fail(ErrInvalid, "%s redirects in a circle, or more than %d times", e.base.Host, maxRedirects)
	}
	if from.Scheme == "https" && req.URL.Scheme == "http" {
		return e.fail(ErrInvalid, "%s redirects to %s without TLS", from.Host, req.URL.Host)
	}
	req.Header.Del("Referer") // the URL before may be signed, and is nobody else's business
	return nil
}

// tokenCache is an [auth.Cache] for one endpoint. Unlike that package's own it has a
// bound, and a fetch that several requests wait for does not end with the first of them.
type tokenCache struct {
	scheme  atomic.Int32 // an auth.Scheme
	tokens  *lru.Cache[string, string]
	fetches singleflight.Group
}

func newTokenCache() *tokenCache {
	tokens, err := lru.New[string, string](maxTokens)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &tokenCache{tokens: tokens}
}

// GetScheme returns how the endpoint asked to be authenticated to.
func (c *tokenCache) GetScheme(context.Context, string) (auth.Scheme, error) {
	if scheme := auth.Scheme(c.scheme.Load()); scheme != auth.SchemeUnknown {
		return scheme, nil
	}
	return auth.SchemeUnknown, errdef.ErrNotFound
}

// GetToken returns the token that was fetched for the scopes in key.
func (c *tokenCache) GetToken(_ context.Context, _ string, scheme auth.Scheme, key string) (string, error) {
	if token, ok := c.tokens.Get(scheme.String() + " " + key); ok {
		return token, nil
	}
	return "", errdef.ErrNotFound
}

// Set fetches a token and keeps it.
func (c *tokenCache) Set(ctx context.Context, _ string, scheme auth.Scheme, key string, fetch func(context.Context) (string, error)) (string, error) {
	key = scheme.String() + " " + key
	fetched := c.fetches.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		token, err := fetch(ctx)
		if err == nil {
			c.tokens.Add(key, token)
			c.scheme.Store(int32(scheme))
		}
		return token, err
	})
	select {
	case f := <-fetched:
		return f.Val.(string), f.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// watchedBody is the body of an answer. A read ends when no byte has come for long, and
// errors of reads are this package's.
type watchedBody struct {
	io.ReadCloser
	endpoint *endpoint
	host     string
	ctx      context.Context // of the request
	cancel   context.CancelFunc
	timer    *time.Timer
	stalled  atomic.Bool
}

func (e *endpoint) watch(req *http.Request, cancel context.CancelFunc, body io.ReadCloser) *watchedBody {
	b := &watchedBody{ReadCloser: body, endpoint: e, host: req.URL.Host, ctx: req.Context(), cancel: cancel}
	b.timer = time.AfterFunc(e.stall, func() {
		b.stalled.Store(true)
		cancel()
	})
	b.timer.Stop() // it runs during reads only: whoever reads may take their time between them
	return b
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.endpoint.stall)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case b.ctx.Err() != nil:
		return n, b.ctx.Err()
	case b.stalled.Load():
		return n, b.endpoint.fail(ErrTimeout, "%s sent nothing for %v in the middle of an answer", b.host, b.endpoint.stall)
	}
	return n, b.endpoint.fail(ErrUnavailable, "%s broke off in the middle of an answer: %v", b.host, err)
}

func (b *watchedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

// pullQuota is how many more manifests the upstream gives, as Docker Hub tells in
// ratelimit-limit and ratelimit-remaining ("100;w=21600": 100 in 21,600 seconds).
type pullQuota struct {
	mu               sync.Mutex
	limit, remaining int64
	until            time.Time // what was said then is too old to mean anything
}

func (q *pullQuota) observe(header http.Header, tell func(remaining float64)) {
	remaining, window, ok := parseQuota(header.Get("Ratelimit-Remaining"))
	if !ok {
		return
	}
	limit, _, _ := parseQuota(header.Get("Ratelimit-Limit"))
	q.mu.Lock()
	q.limit, q.remaining, q.until = limit, remaining, time.Now().Add(window)
	q.mu.Unlock()
	tell(float64(remaining))
}

func (q *pullQuota) low() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Now().Before(q.until) && (q.remaining <= 2 || q.remaining*20 <= q.limit)
}

func parseQuota(value string) (n int64, window time.Duration, ok bool) {
	number, parameter, _ := strings.Cut(value, ";")
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	window = time.Hour
	if seconds, found := strings.CutPrefix(strings.TrimSpace(parameter), "w="); found {
		if s, err := strconv.ParseUint(seconds, 10, 31); err == nil {
			window = time.Duration(s) * time.Second
		}
	}
	return n, window, err == nil && n >= 0
}

// Interface guards
var (
	_ io.ReadCloser     = (*watchedBody)(nil)
	_ http.RoundTripper = observedTransport{}
	_ auth.Cache        = (*tokenCache)(nil)
)
