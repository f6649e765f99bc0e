package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"
)

const maxRedirects = 10

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
		roots, err := TrustCAFile(config.CAFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return transport, nil
}

// TrustCAFile returns the system's certificate authorities and those of a file.
func TrustCAFile(path string) (*x509.CertPool, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file: %s has no certificate in PEM", path)
	}
	return roots, nil
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

// Interface guard
var _ http.RoundTripper = observedTransport{}
