package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	openid "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

func (p *Provider) oauth(d *document, callback string, style oauth2.AuthStyle) *oauth2.Config {
	return &oauth2.Config{
		ClientID: p.config.ClientID, ClientSecret: p.config.ClientSecret, RedirectURL: callback, Scopes: p.config.Scopes,
		Endpoint: oauth2.Endpoint{AuthURL: d.AuthURL, TokenURL: d.TokenURL, AuthStyle: style},
	}
}

// grant asks the token endpoint, in each way that it may know this client by, until it
// does. oauth2 can find that out too, but asks again after any error: a refresh token or
// a code that is used twice may end all that it stands for.
func (p *Provider) grant(ctx context.Context, d *document, callback string, ask func(context.Context, *oauth2.Config) (*oauth2.Token, error)) (*oauth2.Token, error) {
	ctx = openid.ClientContext(ctx, p.client)
	var refused error
	for _, style := range p.styles(d) {
		token, err := ask(ctx, p.oauth(d, callback, style))
		if err == nil {
			p.style.Store(int32(style))
		}
		if !isUnknownClient(err) {
			return token, err
		}
		if refused == nil {
			refused = err
		}
	}
	return nil, refused
}

// styles returns how the client may authenticate, what is likely to be right first.
func (p *Provider) styles(d *document) []oauth2.AuthStyle {
	basic, post := slices.Contains(d.AuthMethods, "client_secret_basic"), slices.Contains(d.AuthMethods, "client_secret_post")
	switch {
	case p.config.ClientSecret == "", post && !basic:
		return []oauth2.AuthStyle{oauth2.AuthStyleInParams}
	case basic && !post:
		return []oauth2.AuthStyle{oauth2.AuthStyleInHeader}
	case oauth2.AuthStyle(p.style.Load()) == oauth2.AuthStyleInParams:
		return []oauth2.AuthStyle{oauth2.AuthStyleInParams, oauth2.AuthStyleInHeader}
	}
	return []oauth2.AuthStyle{oauth2.AuthStyleInHeader, oauth2.AuthStyleInParams}
}

// isUnknownClient reports whether the token endpoint did not look at more than who asks.
func isUnknownClient(err error) bool {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		return false
	}
	return refused.ErrorCode == "invalid_client" || (refused.Response.StatusCode == http.StatusUnauthorized && refused.ErrorCode != invalidGrant)
}

const invalidGrant = "invalid_grant"

// refusal is an error that the token endpoint tells by its code (RFC 6749, section 5.2).
type refusal struct{ code, description string }

func (e *refusal) Error() string {
	if e.description == "" {
		return "the token endpoint says " + e.code
	}
	return "the token endpoint says " + e.code + ": " + e.description
}

func isEnd(err error) bool {
	var refused *refusal
	return errors.As(err, &refused) && refused.code == invalidGrant
}

// grantError returns what an error of the token endpoint means, without the secrets that
// were sent there and whatever else the answer has.
func (p *Provider) grantError(err error, secrets ...string) error {
	secrets = append(secrets, p.config.ClientSecret)
	var asked *url.Error
	var answered *oauth2.RetrieveError
	switch {
	case errors.As(err, &asked):
		return unanswered(err, secrets...)
	case !errors.As(err, &answered):
		return fmt.Errorf("the answer of the token endpoint cannot be used: %s", brief(err.Error(), secrets...))
	}
	status := answered.Response.StatusCode
	if answered.ErrorCode == "" || status >= 500 || status == http.StatusTooManyRequests {
		return statusError(answered.Response.Request.URL, status)
	}
	return &refusal{brief(answered.ErrorCode, secrets...), brief(answered.ErrorDescription, secrets...)}
}
