package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	openid "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"
)

const (
	// clockSkew is how much later it may be at the provider.
	clockSkew  = 5 * time.Minute
	maxSubject = 255 // as OpenID Connect Core 1.0, section 2, has it
)

// newKeys returns the keys at a URL, which are read when one is needed that is not known.
func (p *Provider) newKeys(at string) openid.KeySet {
	client := *p.client
	client.Transport = pacedTransport{next: client.Transport, pace: p.pace}
	return openid.NewRemoteKeySet(openid.ClientContext(context.Background(), &client), at)
}

// pacedTransport reads keys no more often than is good for the provider: an ID token with
// an unknown key has them read again, and there could be many. Those who wait share a
// request. Against the rules of a RoundTripper, a status is an error: go-oidc makes a text
// of it that cannot be told from others.
type pacedTransport struct {
	next http.RoundTripper
	pace *rate.Limiter
}

func (t pacedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.pace.Wait(req.Context()); err != nil {
		return nil, err
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil || resp.StatusCode == http.StatusOK || (resp.StatusCode >= 300 && resp.StatusCode < 400) {
		return resp, err
	}
	_ = resp.Body.Close() // nothing of it is read
	return nil, fmt.Errorf("it answers %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
}

// observedKeys keep the error that the verifier only makes a text of.
type observedKeys struct {
	openid.KeySet
	err error
}

func (k *observedKeys) VerifySignature(ctx context.Context, jwt string) (payload []byte, err error) {
	payload, k.err = k.KeySet.VerifySignature(ctx, jwt)
	return payload, k.err
}

// verify returns what an ID token says that came with an access token, after the checks
// of OpenID Connect Core 1.0, section 3.1.3.7, but for the nonce.
func (p *Provider) verify(ctx context.Context, d *document, text, accessToken string) (*openid.IDToken, error) {
	keys := &observedKeys{KeySet: d.keys}
	verifier := openid.NewVerifier(d.IssuerURL, keys, &openid.Config{ClientID: p.config.ClientID, SupportedSigningAlgs: d.Algorithms})
	token, err := verifier.Verify(ctx, text)
	var asked *url.Error
	switch {
	case errors.As(keys.err, &asked), errors.Is(keys.err, context.Canceled), errors.Is(keys.err, context.DeadlineExceeded):
		return nil, unanswered(keys.err)
	case err != nil:
		return nil, fmt.Errorf("its ID token is not accepted: %s", brief(err.Error(), text, accessToken))
	}
	if err := p.checkToken(token, accessToken, time.Now()); err != nil {
		return nil, fmt.Errorf("its ID token is not accepted: %w", err)
	}
	return token, nil
}

// checkToken does the checks that go-oidc leaves to its users.
func (p *Provider) checkToken(token *openid.IDToken, accessToken string, now time.Time) error {
	var claimed struct {
		Party string `json:"azp"`
	}
	if err := token.Claims(&claimed); err != nil {
		return errors.New("its claim azp is no text")
	}
	switch {
	case token.Subject == "" || len(token.Subject) > maxSubject:
		return fmt.Errorf("its claim sub must have 1 to %d characters", maxSubject)
	case claimed.Party == "" && len(token.Audience) > 1:
		return errors.New("it is for several clients, and does not say by azp which one signed in")
	case claimed.Party != "" && claimed.Party != p.config.ClientID:
		return fmt.Errorf("it was made for another client, %q", brief(claimed.Party))
	case token.IssuedAt.IsZero():
		return errors.New("its claim iat is missing")
	case token.IssuedAt.After(now.Add(clockSkew)):
		return fmt.Errorf("it is of the future, %s: compare the clocks", token.IssuedAt.UTC().Format(time.RFC3339))
	}
	if token.AccessTokenHash != "" && token.VerifyAccessToken(accessToken) != nil {
		return errors.New("it came with an access token that is not its own")
	}
	return nil
}

// tokenClaims returns all that a verified ID token says.
func tokenClaims(token *openid.IDToken) (claims, error) {
	var all claims
	if err := token.Claims(&all); err != nil {
		return nil, errors.New("its ID token is no JSON object")
	}
	return all, nil
}

// userinfo returns what the provider says of a subject to who has the access token
// (section 5.3). What is said of anybody else is an error.
func (p *Provider) userinfo(ctx context.Context, d *document, accessToken, subject string) (claims, error) {
	var all claims
	if err := p.get(ctx, d.UserInfoURL, accessToken, &all); err != nil {
		return nil, fmt.Errorf("userinfo: %w", err)
	}
	var about string
	if err := json.Unmarshal(all["sub"], &about); err != nil || about != subject {
		return nil, errors.New("userinfo is about somebody else than who signed in")
	}
	return all, nil
}
