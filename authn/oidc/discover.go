package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	openid "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/sync/singleflight"
)

const (
	discoverTimeout = 4 * time.Second
	// failureLasts is how long nobody tries again after the provider could not be used.
	failureLasts = 5 * time.Second
	// rereadAfter is how long a document, and with it the keys that it leads to, is
	// believed without being looked at again.
	rereadAfter = time.Hour
	// reachableFor is how long a provider that could be reached is said to be.
	reachableFor = time.Minute
)

// signatures are the algorithms that only the provider can sign with. An HMAC is made
// with the client secret, which others may know, and none is made with nothing.
var signatures = []string{
	openid.RS256, openid.RS384, openid.RS512, openid.PS256, openid.PS384, openid.PS512,
	openid.ES256, openid.ES384, openid.ES512, openid.EdDSA,
}

// document is what a provider says of itself (OpenID Connect Discovery 1.0, section 3).
type document struct {
	openid.ProviderConfig
	EndSession  string   `json:"end_session_endpoint"`
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`

	keys openid.KeySet
}

// reading is what came of reading the document.
type reading struct {
	document *document // the newest that could be read, also if that is a while ago
	err      error     // why it could not be read the last time
	ended    time.Time
}

// Discover tells whether people can sign in: it reads what the provider says of itself,
// once for all who ask. What is known is read again behind the scenes, and if that fails
// Discover says so though the rest goes on with what is known. A failure is told for some
// seconds without another try. Errors wrap [ErrUnavailable].
func (p *Provider) Discover(ctx context.Context) error {
	return p.read(ctx, reachableFor).err
}

// discovered returns what the provider says of itself, or the last time did.
func (p *Provider) discovered(ctx context.Context) (*document, error) {
	last := p.read(ctx, rereadAfter)
	if last.document == nil {
		return nil, last.err
	}
	return last.document, nil
}

// read returns what is known if there is anything, and otherwise waits for it.
func (p *Provider) read(ctx context.Context, age time.Duration) reading {
	last, next := p.look(ctx, age)
	if last.document != nil || next == nil {
		return last
	}
	select {
	case done := <-next:
		return done.Val.(reading)
	case <-ctx.Done():
		return reading{err: fmt.Errorf("%w: nobody waits for it any more: %w", ErrUnavailable, ctx.Err())}
	}
}

// look returns the last reading and, if it is time for another, the result of that.
func (p *Provider) look(ctx context.Context, age time.Duration) (reading, <-chan singleflight.Result) {
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	if last.err != nil {
		age = failureLasts
	}
	if !last.ended.IsZero() && time.Since(last.ended) < age {
		return last, nil
	}
	return last, p.readings.DoChan("", func() (any, error) {
		// Others wait too when this caller does not any more.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discoverTimeout)
		defer cancel()
		found, err := p.fetchDocument(ctx)
		return p.finish(ctx, found, err), nil
	})
}

// finish takes note of what came of a reading.
func (p *Provider) finish(ctx context.Context, found *document, err error) reading {
	p.mu.Lock()
	before := p.last
	if err != nil {
		found = before.document
	}
	p.last = reading{document: found, err: err, ended: time.Now()}
	last := p.last
	p.mu.Unlock()
	switch {
	case err != nil && (before.err == nil || before.err.Error() != err.Error()):
		p.config.Log.WarnContext(ctx, "an identity provider cannot be used", "provider", p.config.Name, "error", err)
	case err == nil && before.err != nil:
		p.config.Log.InfoContext(ctx, "an identity provider can be used again", "provider", p.config.Name)
	}
	return last
}

func (p *Provider) fetchDocument(ctx context.Context) (*document, error) {
	found := new(document)
	err := p.get(ctx, p.issuer+"/.well-known/openid-configuration", "", found)
	if err == nil {
		err = p.check(found)
	}
	switch {
	case errors.Is(err, ErrUnavailable):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	// With the document the keys are read again, so that one which the provider gave up
	// is not believed for ever.
	found.keys = p.newKeys(found.JWKSURL)
	return found, nil
}

// check reports why people cannot sign in at a provider that says this of itself, and
// leaves only those algorithms there that may be.
func (p *Provider) check(d *document) error {
	if strings.TrimSuffix(d.IssuerURL, "/") != p.issuer {
		return fmt.Errorf("its discovery document is of issuer %q, and not of %q as is configured", brief(d.IssuerURL), p.issuer)
	}
	endpoints := []struct {
		name, url string
		needed    bool
	}{
		{"authorization_endpoint", d.AuthURL, true},
		{"token_endpoint", d.TokenURL, true},
		{"jwks_uri", d.JWKSURL, true},
		{"userinfo_endpoint", d.UserInfoURL, false},
		{"end_session_endpoint", d.EndSession, false},
	}
	for _, e := range endpoints {
		if e.url == "" && !e.needed {
			continue
		}
		if err := p.checkEndpoint(e.url); err != nil {
			return fmt.Errorf("%s in its discovery document: %w", e.name, err)
		}
	}
	named := d.Algorithms
	if len(named) == 0 {
		named = []string{openid.RS256} // what all must have
	}
	d.Algorithms = slices.DeleteFunc(slices.Clone(named), func(name string) bool { return !slices.Contains(signatures, name) })
	if len(d.Algorithms) == 0 {
		return fmt.Errorf("it signs ID tokens with %s only, which others can do too: give it a key to sign with, of RSA or an elliptic curve", brief(strings.Join(named, ", ")))
	}
	return nil
}

// checkEndpoint reports why secrets, or a browser, cannot be sent to a URL.
func (p *Provider) checkEndpoint(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("it is missing")
	case err != nil || u.Host == "" || u.User != nil || (u.Scheme != "https" && u.Scheme != "http"):
		return fmt.Errorf("%q is no URL of a server", brief(text))
	case u.Scheme == "http" && strings.HasPrefix(p.issuer, "https:"):
		return fmt.Errorf("%q is not https, though the issuer is", brief(text))
	}
	return nil
}
