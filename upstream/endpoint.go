package upstream

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sony/gobreaker/v2"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/eblume/caddy-registry/storage"
)

const (
	maxFailures = 3                // in a row, before an endpoint is left alone
	openFor     = 10 * time.Second // it is left alone for
	stallLimit  = 15 * time.Second // the longest wait for the next byte of a body
)

// endpoint is one base URL of an upstream. It is not asked while it is known not to
// answer, so that an outage costs those who ask next to nothing.
type endpoint struct {
	upstream string // its name
	base     *url.URL
	index    int // among the upstream's endpoints
	client   *auth.Client
	breaker  *gobreaker.TwoStepCircuitBreaker[struct{}]
	open     atomic.Bool // since it failed, and until it has answered again
	quota    *pullQuota
	metrics  ClientMetrics
	log      *slog.Logger
	stall    time.Duration

	mu          sync.Mutex
	pausedUntil time.Time // after a 429
	lastOutage  string
}

// newBreaker returns a circuit breaker that reports when the endpoint goes and comes back.
func (e *endpoint) newBreaker(changed func()) *gobreaker.TwoStepCircuitBreaker[struct{}] {
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:      openFor,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= maxFailures },
		IsSuccessful: func(err error) bool { return !isOutage(err) },
		// A caller that gave up says nothing of the endpoint.
		IsExcluded: func(err error) bool { return err != nil && kindOf(err) == nil },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			down := to != gobreaker.StateClosed // half-open, it is still to answer
			if e.open.Swap(down) == down {
				return
			}
			if down {
				e.log.Warn("upstream does not answer", "url", e.base.String(), "failures", maxFailures, "error", e.whyDown())
			} else {
				e.log.Info("upstream answers again", "url", e.base.String())
			}
			changed()
		},
	})
}

// newAuthClient returns a client that authenticates to the endpoint when it asks for that.
func (e *endpoint) newAuthClient(transport http.RoundTripper, credential auth.CredentialFunc) *auth.Client {
	return &auth.Client{
		Client: &http.Client{Transport: transport, CheckRedirect: e.checkRedirect},
		Header: http.Header{"User-Agent": {"caddy-registry"}},
		Credential: func(ctx context.Context, host string) (auth.Credential, error) {
			if host != e.base.Host {
				return auth.EmptyCredential, nil
			}
			found, err := credential(ctx, host)
			if err != nil {
				return found, e.fail(ErrDenied, "the credentials for %s cannot be read: %v", host, err)
			}
			return found, nil
		},
		Cache:    newTokenCache(),
		ClientID: "caddy-registry",
		// The addresses that are dialed are looked at, which holds more. Token services of
		// a registry on the same machine or network are fine.
		BlockedRealmPrefixes: []netip.Prefix{},
	}
}

// note remembers why the endpoint is about to be left alone.
func (e *endpoint) note(err error) {
	var f *failure
	if isOutage(err) && errors.As(err, &f) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.lastOutage = f.message
	}
}

func (e *endpoint) whyDown() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastOutage
}

// refusal returns the error of a request that would not be sent now, or nil.
func (e *endpoint) refusal() error {
	if err := e.paused(); err != nil {
		return err
	}
	switch e.breaker.State() {
	case gobreaker.StateOpen:
		return e.leftAlone()
	case gobreaker.StateHalfOpen:
		if counts := e.breaker.Counts(); counts.Requests > counts.TotalExclusions {
			return e.leftAlone()
		}
	}
	return nil
}

func (e *endpoint) paused() error {
	if left := e.pauseLeft(); left > 0 {
		return e.rateLimited(left, e.base.Host+" answered 429 Too Many Requests before")
	}
	return nil
}

func (e *endpoint) leftAlone() error {
	return e.fail(ErrUnavailable, "%s failed %d times in a row and is asked again every %v; the last time: %s", e.base.Host, maxFailures, openFor, e.whyDown())
}

func (e *endpoint) pause(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if until := time.Now().Add(d); until.After(e.pausedUntil) {
		e.pausedUntil = until
	}
}

func (e *endpoint) pauseLeft() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return max(0, time.Until(e.pausedUntil))
}

// url returns the URL of an endpoint of the distribution API.
func (e *endpoint) url(name, path string, query url.Values) *url.URL {
	u := *e.base
	u.Path += "/v2/" + name + "/" + path
	u.RawQuery = query.Encode()
	return &u
}

// ask sends a request for content of a repository, and has read take the answer,
// whatever its status. The body is closed when read returns, unless it has put
// [http.NoBody] in its place.
func (e *endpoint) ask(ctx context.Context, method, name string, u *url.URL, header http.Header, read func(*http.Response) error) (err error) {
	if err := storage.CheckName(name); err != nil {
		return err
	}
	if err := e.paused(); err != nil {
		return err
	}
	done, refused := e.breaker.Allow()
	if refused != nil {
		return e.leftAlone()
	}
	defer func() {
		e.note(err)
		done(err)
	}()

	scoped := auth.WithScopes(ctx, auth.ScopeRepository(name, auth.ActionPull))
	req, err := http.NewRequestWithContext(scoped, method, u.String(), nil)
	if err != nil {
		return e.fail(ErrInvalid, "%v", err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := e.client.Do(req)
	if err != nil {
		return e.explain(ctx, err)
	}
	defer func() {
		// A connection is used again only if its answer was read to the end.
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		resp.Body.Close()
	}()
	return read(resp)
}

// What is asked for as a manifest. Without Docker's old schema 1 in it, registries that
// could still give it do not.
var acceptManifests = http.Header{"Accept": {strings.Join(manifestTypes, ", ")}}

var manifestTypes = []string{
	imagespec.MediaTypeImageIndex,
	imagespec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
}

func (e *endpoint) head(ctx context.Context, name string, ref storage.Reference) (desc imagespec.Descriptor, err error) {
	err = e.ask(ctx, http.MethodHead, name, e.url(name, "manifests/"+ref.String(), nil), acceptManifests, func(resp *http.Response) error {
		desc = imagespec.Descriptor{Digest: ref.Digest, Size: -1}
		if resp.StatusCode == http.StatusMethodNotAllowed {
			return nil // it has no HEAD, and so nothing to tell
		}
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		if desc.MediaType, err = e.manifestType(resp); err != nil {
			return err
		}
		if contentCoding(resp) == "" {
			desc.Size = resp.ContentLength
		}
		told, err := e.toldDigest(resp)
		if err != nil {
			return err
		}
		if ref.Digest == "" {
			desc.Digest = told
		}
		return nil
	})
	return desc, err
}

func (e *endpoint) manifest(ctx context.Context, name string, ref storage.Reference) (m *storage.Manifest, err error) {
	err = e.ask(ctx, http.MethodGet, name, e.url(name, "manifests/"+ref.String(), nil), acceptManifests, func(resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		mediaType, err := e.manifestType(resp)
		if err != nil {
			return err
		}
		body, err := e.decoded(ctx, resp)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(io.LimitReader(body, storage.MaxManifestSize+1))
		if err != nil {
			return e.explain(ctx, err)
		}
		want := ref.Digest
		if want == "" {
			if want, err = e.toldDigest(resp); err != nil {
				return err
			}
		}
		m, err = e.parseManifest(mediaType, content, want)
		return err
	})
	return m, err
}

// parseManifest verifies content against want, if that is not empty. What storage would
// tell somebody who pushes it is not passed on as such: it is not the client's fault.
func (e *endpoint) parseManifest(mediaType string, content []byte, want digest.Digest) (*storage.Manifest, error) {
	if len(content) > storage.MaxManifestSize {
		return nil, e.fail(ErrInvalid, "%s sent a manifest of more than %d bytes", e.base.Host, storage.MaxManifestSize)
	}
	algorithm := digest.SHA256
	if want != "" {
		algorithm = want.Algorithm()
		if got := algorithm.FromBytes(content); got != want {
			return nil, e.fail(ErrInvalid, "%s sent %d bytes with digest %s as manifest %s", e.base.Host, len(content), got, want)
		}
	}
	m, err := storage.ParseManifest(mediaType, content, algorithm)
	if err != nil {
		var schema struct{ SchemaVersion int }
		if json.Unmarshal(content, &schema) == nil && schema.SchemaVersion == 1 {
			return nil, e.oldSchema()
		}
		return nil, e.fail(ErrInvalid, "%s: %v", e.base.Host, err)
	}
	return m, nil
}

func (e *endpoint) oldSchema() error {
	return e.fail(ErrInvalid, "the image is in Docker's old format, schema 1, which is not supported; it must be pushed again by a Docker of 2016 or later")
}

// manifestType returns the media type that the answer claims for a manifest, or "" if it
// claims none in particular, as file servers do: then the document itself says it.
func (e *endpoint) manifestType(resp *http.Response) (string, error) {
	claimed := resp.Header.Get("Content-Type")
	mediaType, _, err := mime.ParseMediaType(claimed)
	switch {
	case slices.Contains(manifestTypes, mediaType):
		return mediaType, nil
	case claimed == "", mediaType == "application/json", mediaType == "application/octet-stream", mediaType == "text/plain":
		return "", nil
	case strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+"):
		return "", e.oldSchema()
	case err != nil:
		return "", e.fail(ErrInvalid, "%s sent Content-Type %q: %v", resp.Request.URL.Host, claimed, err)
	}
	return "", e.fail(ErrInvalid, "%s sent %q instead of a manifest", resp.Request.URL.Host, claimed)
}

// toldDigest returns the Docker-Content-Digest header, which may be missing.
func (e *endpoint) toldDigest(resp *http.Response) (digest.Digest, error) {
	told := resp.Header.Get("Docker-Content-Digest")
	if told == "" {
		return "", nil
	}
	d, err := storage.ParseDigest(told)
	if err != nil {
		return "", e.fail(ErrInvalid, "%s: Docker-Content-Digest: %v", resp.Request.URL.Host, err)
	}
	return d, nil
}

func contentCoding(resp *http.Response) string {
	switch coding := strings.ToLower(resp.Header.Get("Content-Encoding")); coding {
	case "identity":
		return ""
	case "x-gzip":
		return "gzip"
	default:
		return coding
	}
}

// decoded returns the body, which some servers compress although they were asked not to.
func (e *endpoint) decoded(ctx context.Context, resp *http.Response) (io.Reader, error) {
	switch coding := contentCoding(resp); coding {
	case "":
		return resp.Body, nil
	case "gzip":
		plain, err := gzip.NewReader(resp.Body)
		if err != nil {
			return nil, e.explain(ctx, err)
		}
		return plain, nil
	default:
		return nil, e.fail(ErrInvalid, "%s sent Content-Encoding %q, which was not asked for", resp.Request.URL.Host, coding)
	}
}

func (e *endpoint) statBlob(ctx context.Context, name string, d digest.Digest) (size int64, err error) {
	err = e.ask(ctx, http.MethodHead, name, e.url(name, "blobs/"+d.String(), nil), nil, func(resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		if size = resp.ContentLength; contentCoding(resp) != "" {
			size = -1
		}
		return nil
	})
	return size, err
}

func (e *endpoint) blob(ctx context.Context, name string, d digest.Digest, offset, size int64) (b *BlobBody, err error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	err = e.ask(ctx, http.MethodGet, name, e.url(name, "blobs/"+d.String(), nil), header, func(resp *http.Response) error {
		b, err = e.blobBody(ctx, resp, offset, size)
		if b != nil {
			resp.Body = http.NoBody
		}
		return err
	})
	if b == nil && err == nil {
		return e.blob(ctx, name, d, 0, size)
	}
	return b, err
}

// blobBody returns the body of an answer, or nil if the blob must be asked for from its
// beginning.
func (e *endpoint) blobBody(ctx context.Context, resp *http.Response, offset, size int64) (*BlobBody, error) {
	host, total := resp.Request.URL.Host, resp.ContentLength
	switch {
	case resp.StatusCode == http.StatusOK:
		offset = 0
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		start, of, ok := parseContentRange(resp.Header.Get("Content-Range"))
		if !ok || start != offset {
			return nil, e.fail(ErrInvalid, "%s was asked for the bytes from %d on and sent Content-Range %q", host, offset, resp.Header.Get("Content-Range"))
		}
		total = of
	default:
		return nil, e.refused(resp)
	}
	// Layers are often gzip files, and some servers say that of them by Content-Encoding.
	// Those have the right size as they are.
	if contentCoding(resp) != "" && size >= 0 && total != size {
		if offset > 0 {
			return nil, nil // the range is one of the encoded bytes
		}
		plain, err := e.decoded(ctx, resp)
		if err != nil {
			return nil, err
		}
		return &BlobBody{decodedBody{e, ctx, plain, resp.Body}, -1, 0, e.index}, nil
	}
	if size >= 0 && total >= 0 && total != size {
		return nil, e.fail(ErrInvalid, "%s has %d bytes for a blob that has %d", host, total, size)
	}
	return &BlobBody{resp.Body, total, offset, e.index}, nil
}

// decodedBody is a body without its encoding.
type decodedBody struct {
	endpoint *endpoint
	ctx      context.Context
	plain    io.Reader
	io.Closer
}

func (b decodedBody) Read(p []byte) (int, error) {
	n, err := b.plain.Read(p)
	if err != nil && err != io.EOF {
		err = b.endpoint.explain(b.ctx, err)
	}
	return n, err
}

// parseContentRange reads "bytes 5-9/10" (RFC 9110, section 14.4). total is -1 for "*".
func parseContentRange(value string) (start, total int64, ok bool) {
	value, ok = strings.CutPrefix(value, "bytes ")
	span, of, found := strings.Cut(value, "/")
	from, to, separated := strings.Cut(span, "-")
	start, startErr := strconv.ParseInt(from, 10, 64)
	end, endErr := strconv.ParseInt(to, 10, 64)
	if !ok || !found || !separated || startErr != nil || endErr != nil || start < 0 || end < start {
		return 0, 0, false
	}
	if of == "*" {
		return start, -1, true
	}
	total, err := strconv.ParseInt(of, 10, 64)
	return start, total, err == nil && end < total
}

const (
	maxPages     = 1000
	maxTags      = 200_000
	maxListBytes = 32 << 20 // of all pages
	tagsPage     = "1000"   // more than that some registries refuse
)

// pages asks for a list page by page. take reads one and reports whether there may be more.
func (e *endpoint) pages(ctx context.Context, name, path string, query url.Values, take func(*http.Response, *json.Decoder) error) error {
	left := int64(maxListBytes)
	seen := make(map[string]bool)
	for more := true; more; {
		u := e.url(name, path, query)
		if len(seen) == maxPages || seen[u.RawQuery] {
			return e.fail(ErrInvalid, "%s has a list %s that leads in a circle or has more than %d pages", e.base.Host, path, maxPages)
		}
		seen[u.RawQuery] = true
		err := e.ask(ctx, http.MethodGet, name, u, nil, func(resp *http.Response) error {
			query, more = nextPage(resp.Header)
			var body io.Reader = resp.Body
			if resp.StatusCode == http.StatusOK {
				var err error
				if body, err = e.decoded(ctx, resp); err != nil {
					return err
				}
			}
			limited := &io.LimitedReader{R: body, N: left}
			err := take(resp, json.NewDecoder(limited))
			if left = limited.N; left == 0 {
				return e.fail(ErrInvalid, "%s has a list %s of more than %d bytes", e.base.Host, path, maxListBytes)
			}
			if err != nil {
				return e.explain(ctx, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// nextPage returns the query of the Link header that leads to the next page (RFC 8288).
// Only the query is of use: registries behind proxies often do not know their own scheme,
// host or path, and nothing is asked of another host with the credentials for this one.
func nextPage(header http.Header) (url.Values, bool) {
	for _, links := range header.Values("Link") {
		for links != "" {
			var target, parameters string
			_, links, _ = strings.Cut(links, "<")
			target, links, _ = strings.Cut(links, ">")
			parameters, _, _ = strings.Cut(links, "<")
			for _, parameter := range strings.FieldsFunc(parameters, func(r rune) bool { return r == ';' || r == ',' }) {
				key, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
				if strings.EqualFold(key, "rel") && strings.EqualFold(strings.Trim(value, `" `), "next") {
					if u, err := url.Parse(target); err == nil {
						return u.Query(), true
					}
				}
			}
		}
	}
	return nil, false
}

func (e *endpoint) tags(ctx context.Context, name string) ([]string, error) {
	var tags []string
	err := e.pages(ctx, name, "tags/list", url.Values{"n": {tagsPage}}, func(resp *http.Response, body *json.Decoder) error {
		if resp.StatusCode != http.StatusOK {
			return e.refused(resp)
		}
		var page struct{ Tags []string }
		if err := body.Decode(&page); err != nil {
			return err
		}
		for _, tag := range page.Tags {
			if storage.CheckTag(tag) == nil {
				tags = append(tags, tag)
			}
		}
		if len(tags) > maxTags {
			return e.fail(ErrInvalid, "%s has more than %d tags in %s", e.base.Host, maxTags, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

func (e *endpoint) referrers(ctx context.Context, name string, d digest.Digest) ([]imagespec.Descriptor, error) {
	var found []imagespec.Descriptor
	known := true
	err := e.pages(ctx, name, "referrers/"+d.String(), nil, func(resp *http.Response, body *json.Decoder) error {
		mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		switch resp.StatusCode {
		case http.StatusOK:
			if mediaType != imagespec.MediaTypeImageIndex {
				known = false // some answer with a page for people where they have no API
				return nil
			}
		case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
			known = false
			return nil
		default:
			return e.refused(resp)
		}
		var page imagespec.Index
		if err := body.Decode(&page); err != nil {
			return err
		}
		found = append(found, page.Manifests...)
		return nil
	})
	if err == nil && !known {
		found, err = e.taggedReferrers(ctx, name, d)
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(found, func(desc imagespec.Descriptor) bool {
		return desc.Digest.Validate() != nil || desc.Size < 0
	}), nil
}

// taggedReferrers is the referrers tag schema of the distribution spec.
func (e *endpoint) taggedReferrers(ctx context.Context, name string, d digest.Digest) ([]imagespec.Descriptor, error) {
	tag := d.Algorithm().String() + "-" + d.Encoded()[:min(64, len(d.Encoded()))]
	m, err := e.manifest(ctx, name, storage.Reference{Tag: tag})
	if err != nil {
		return nil, err
	}
	if m.MediaType != imagespec.MediaTypeImageIndex {
		return nil, nil
	}
	var index imagespec.Index
	if err := json.Unmarshal(m.Content, &index); err != nil {
		return nil, e.fail(ErrInvalid, "%s: %v", e.base.Host, err)
	}
	return index.Manifests, nil
}
