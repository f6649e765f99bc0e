package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/eblume/caddy-registry/storage"
)

// Config says how one upstream registry is reached.
type Config struct {
	// Name is for messages, metrics and logs: "docker.io".
	Name string
	// URLs are tried in order: "https://registry-1.docker.io". What the one does not have
	// or cannot give, the next is asked for.
	URLs []string

	// Username and Password are given to the hosts of URLs that ask for them, and to the
	// token services that those name.
	Username, Password string
	// DockerConfig is the path of a Docker configuration file, config.json, whose
	// credentials and credential helpers are used instead.
	DockerConfig string
	// CAFile is the path of certificates in PEM, which are trusted like the system's.
	CAFile string

	Log     *slog.Logger
	Metrics ClientMetrics

	dial  func(ctx context.Context, network, address string) (net.Conn, error)
	stall time.Duration // stallLimit if zero
}

// ClientMetrics are told what a client does. Each may be nil.
type ClientMetrics struct {
	// Request is called for each request that was sent, also to token services and to
	// where redirects lead. Its code is the answer's status, "error" if there was no
	// answer, or "canceled" if nobody waited for one any more.
	Request func(code string)
	// RateLimitRemaining is called with how many more manifests the upstream gives.
	RateLimitRemaining func(n float64)
	// Up is called with false when all URLs stopped answering, and with true at first and
	// when one answers again.
	Up func(up bool)
}

// Client asks one upstream registry. Its methods are safe for concurrent use; their
// errors wrap this package's sentinels, or are the context's when that has ended.
type Client struct {
	name      string
	endpoints []*endpoint
	transport *http.Transport
	quota     pullQuota
	metrics   ClientMetrics
	mu        sync.Mutex // held while Up is told
}

// NewClient returns a client. It reads the files that config names and reaches no
// network. Errors name the option at fault.
func NewClient(config Config) (*Client, error) {
	c := &Client{name: config.Name, metrics: config.Metrics}
	if c.metrics.Request == nil {
		c.metrics.Request = func(string) {}
	}
	if c.metrics.RateLimitRemaining == nil {
		c.metrics.RateLimitRemaining = func(float64) {}
	}
	if c.metrics.Up == nil {
		c.metrics.Up = func(bool) {}
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.stall == 0 {
		config.stall = stallLimit
	}
	if len(config.URLs) == 0 {
		return nil, errors.New("url: at least one is needed")
	}
	credential, err := credentialsOf(config)
	if err != nil {
		return nil, err
	}
	var addresses addressGuard
	for i, raw := range config.URLs {
		base, err := parseBase(raw)
		if err != nil {
			return nil, err
		}
		if addr, err := netip.ParseAddr(base.Hostname()); err == nil {
			addresses.configured = append(addresses.configured, addr.Unmap().WithZone(""))
		}
		c.endpoints = append(c.endpoints, &endpoint{
			upstream: config.Name,
			base:     base,
			index:    i,
			quota:    &c.quota,
			metrics:  c.metrics,
			log:      config.Log.With("upstream", config.Name),
			stall:    config.stall,
		})
	}
	if c.transport, err = newTransport(config, addresses); err != nil {
		return nil, err
	}
	for _, e := range c.endpoints {
		e.breaker = e.newBreaker(c.tellUp)
		e.client = e.newAuthClient(observedTransport{e, addresses, c.transport}, credential)
	}
	c.tellUp()
	return c, nil
}

func parseBase(raw string) (*url.URL, error) {
	base, err := url.Parse(raw)
	switch {
	case err != nil:
		// The parser's own error repeats the whole of it, maybe with a password.
		return nil, errors.New("url: it is not a URL")
	case base.User != nil:
		return nil, fmt.Errorf("url %s: a user and password are given with credentials, not in the URL", base.Redacted())
	case base.Scheme != "https" && base.Scheme != "http", base.Host == "":
		return nil, fmt.Errorf("url %s: must begin with https:// or http:// and a host", raw)
	case base.RawQuery != "", base.Fragment != "":
		return nil, fmt.Errorf("url %s: must end with the host or a path", raw)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	base.RawPath = ""
	return base, nil
}

func credentialsOf(config Config) (auth.CredentialFunc, error) {
	static := auth.Credential{Username: config.Username, Password: config.Password}
	switch {
	case static != auth.EmptyCredential && config.DockerConfig != "":
		return nil, errors.New("credentials and docker_config cannot both be given")
	case config.DockerConfig != "":
		// The store takes a file that is not there for an empty one.
		if _, err := os.Stat(config.DockerConfig); err != nil {
			return nil, fmt.Errorf("docker_config: %w", err)
		}
		store, err := credentials.NewStore(config.DockerConfig, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("docker_config: %w", err)
		}
		return credentials.Credential(store), nil
	case (static.Username == "") != (static.Password == ""):
		return nil, errors.New("credentials: a user and a password are needed")
	}
	return func(context.Context, string) (auth.Credential, error) { return static, nil }, nil
}

func (c *Client) tellUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.metrics.Up(!c.Down())
}

// Close closes the connections that nothing is read from.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Name is what the upstream is called.
func (c *Client) Name() string { return c.name }

// Down reports whether none of the upstream's URLs has answered since they were found not to.
func (c *Client) Down() bool {
	return !slices.ContainsFunc(c.endpoints, func(e *endpoint) bool { return !e.open.Load() })
}

// Paused returns why a request now would be refused without asking the upstream, which
// wraps ErrUnavailable or ErrRateLimited, or nil.
func (c *Client) Paused() error {
	var refusals []error
	for _, e := range c.endpoints {
		err := e.refusal()
		if err == nil {
			return nil
		}
		refusals = append(refusals, err)
	}
	return mostTelling(refusals)
}

// QuotaLow reports whether the upstream said that it will soon give no more manifests:
// that it gives at most a twentieth of what it gives in all, or two.
func (c *Client) QuotaLow() bool { return c.quota.low() }

// tryEach asks the endpoints in order, beginning with first, until one has the answer.
func tryEach[T any](c *Client, first int, ask func(*endpoint) (T, error)) (T, error) {
	var errs []error
	for i := range c.endpoints {
		answer, err := ask(c.endpoints[(first+i)%len(c.endpoints)])
		if err == nil || kindOf(err) == nil { // no other endpoint helps a caller that is gone
			return answer, err
		}
		errs = append(errs, err)
	}
	var none T
	return none, mostTelling(errs)
}

// Head asks for a manifest's descriptor, which costs nothing of the upstream's quota.
// The digest is empty if the upstream does not tell it for a tag, the size -1, the
// media type empty.
func (c *Client) Head(ctx context.Context, name string, ref storage.Reference) (imagespec.Descriptor, error) {
	return tryEach(c, 0, func(e *endpoint) (imagespec.Descriptor, error) { return e.head(ctx, name, ref) })
}

// Manifest gets a manifest, and verifies it against the digest in ref or, for a tag,
// against the one that the upstream tells.
func (c *Client) Manifest(ctx context.Context, name string, ref storage.Reference) (*storage.Manifest, error) {
	return tryEach(c, 0, func(e *endpoint) (*storage.Manifest, error) { return e.manifest(ctx, name, ref) })
}

// StatBlob returns a blob's size, or -1 if the upstream has it but does not tell.
func (c *Client) StatBlob(ctx context.Context, name string, d digest.Digest) (int64, error) {
	return tryEach(c, 0, func(e *endpoint) (int64, error) { return e.statBlob(ctx, name, d) })
}

// BlobBody is the bytes of a blob on their way, which nobody has verified yet. Reads
// return io.EOF where the upstream ended, which may be before the blob's end, and
// ErrTimeout or ErrUnavailable if it broke off. The caller closes it.
type BlobBody struct {
	io.ReadCloser
	Size     int64 // of the whole blob; -1 if the upstream does not say
	Offset   int64 // of the first byte: what was asked for, or 0
	Endpoint int   // which URL it comes from
}

// Blob asks for the bytes of a blob from offset on, of the URL with number first (modulo
// their count), or of the next one that has them, so that a transfer that was cut can go
// on elsewhere. size is the blob's as a manifest says, or -1; an upstream that says
// another is not used. The context must last as long as the body is read.
func (c *Client) Blob(ctx context.Context, name string, d digest.Digest, offset int64, first int, size int64) (*BlobBody, error) {
	return tryEach(c, first, func(e *endpoint) (*BlobBody, error) { return e.blob(ctx, name, d, offset, size) })
}

// Tags returns all tags of a repository in bytewise order.
func (c *Client) Tags(ctx context.Context, name string) ([]string, error) {
	return tryEach(c, 0, func(e *endpoint) ([]string, error) { return e.tags(ctx, name) })
}

// Referrers returns the manifests whose subject is d. Of an upstream without the
// referrers API they are those in the index that is tagged for d, if there is one
// (distribution-spec, "Unavailable Referrers API").
func (c *Client) Referrers(ctx context.Context, name string, d digest.Digest) ([]imagespec.Descriptor, error) {
	found, err := tryEach(c, 0, func(e *endpoint) ([]imagespec.Descriptor, error) { return e.referrers(ctx, name, d) })
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return found, err
}
