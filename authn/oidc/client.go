package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	requestTimeout = 10 * time.Second
	// maxAnswer is how many bytes of an answer are read. Of that many oauth2 cuts the rest
	// off silently, so it is one less.
	maxAnswer    = 1<<20 - 1
	maxRedirects = 3
	maxBrief     = 300 // characters
)

// newClient returns a client that reads no endless answers and follows redirects only
// where its secrets may go.
func newClient(given *http.Client) *http.Client {
	client := new(http.Client)
	if given != nil {
		*client = *given
	}
	if client.Timeout == 0 {
		client.Timeout = requestTimeout
	}
	next := client.Transport
	if next == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxResponseHeaderBytes = 256 << 10
		next = transport
	}
	client.Transport, client.CheckRedirect = boundedTransport{next}, checkRedirect
	return client
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("it redirects more than %d times", maxRedirects)
	case req.URL.Scheme != first.Scheme || req.URL.Host != first.Host:
		return fmt.Errorf("it redirects to another server, %s://%s", req.URL.Scheme, req.URL.Host)
	}
	return nil
}

// boundedTransport refuses answers that are too large.
type boundedTransport struct{ next http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil {
		resp.Body = &boundedBody{resp.Body, maxAnswer}
	}
	return resp, err
}

var errTooLarge = errors.New("the answer is larger than 1 MiB")

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// get reads the JSON at a URL, with an access token unless that is empty.
func (p *Provider) get(ctx context.Context, target, accessToken string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("%q is no URL", brief(target))
	}
	req.Header.Set("Accept", "application/json")
	if accessToken != "" {
		req.Header.Set("Authorization", "Bearer "+accessToken)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return unanswered(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return statusError(req.URL, resp.StatusCode)
	}
	content, err := io.ReadAll(resp.Body)
	switch {
	case errors.Is(err, errTooLarge):
		return fmt.Errorf("%s: %w", place(req.URL), err)
	case err != nil:
		return fmt.Errorf("%w: %s: the answer broke off: %w", ErrUnavailable, place(req.URL), err)
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("%s: the answer, of type %q, is not the JSON that it should be: %s", place(req.URL), brief(resp.Header.Get("Content-Type")), brief(err.Error()))
	}
	return nil
}

// statusError returns what it means that a URL answers with a status instead of what is there.
func statusError(at *url.URL, status int) error {
	err := fmt.Errorf("%s answers %d %s", place(at), status, http.StatusText(status))
	if status >= 500 || status == http.StatusTooManyRequests {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// unanswered returns err without secrets that were sent, and what there may be in a URL.
func unanswered(err error, secrets ...string) error {
	var asked *url.Error
	if !errors.As(err, &asked) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	at, parseErr := url.Parse(asked.URL)
	if parseErr != nil {
		at = new(url.URL)
	}
	if asked.Timeout() {
		return fmt.Errorf("%w: %s does not answer in time", ErrUnavailable, place(at))
	}
	return fmt.Errorf("%w: %s: %s", ErrUnavailable, place(at), brief(asked.Err.Error(), secrets...))
}

// place names a URL without what may be a secret.
func place(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// brief returns somebody else's text as part of one line, without secrets that may be
// repeated there.
func brief(text string, secrets ...string) string {
	for _, secret := range secrets {
		if secret != "" {
			text = strings.NewReplacer(secret, "***", url.QueryEscape(secret), "***").Replace(text)
		}
	}
	text = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, text)
	if utf8.RuneCountInString(text) > maxBrief {
		text = string([]rune(text)[:maxBrief]) + "..."
	}
	return text
}
