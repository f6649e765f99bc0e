package oidc

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	openid "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// AuthURL returns where a browser goes to sign in, from where it comes back to callback.
func (p *Provider) AuthURL(ctx context.Context, callback string, a Attempt) (string, error) {
	d, err := p.discovered(ctx)
	if err != nil {
		return "", err
	}
	config := p.oauth(d, callback, oauth2.AuthStyleInHeader)
	options := []oauth2.AuthCodeOption{openid.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)}
	if p.asksOffline() {
		// Without it the provider must ignore the scope (OpenID Connect Core, section 11).
		options = append(options, oauth2.SetAuthURLParam("prompt", "consent"))
	}
	return config.AuthCodeURL(a.State, options...), nil
}

// asksOffline reports whether people are to be asked about also when they are away.
func (p *Provider) asksOffline() bool {
	return slices.Contains(p.config.Scopes, openid.ScopeOfflineAccess)
}

// Exchange returns who signed in, by the code with which the browser came back to
// callback. The caller has compared the state.
func (p *Provider) Exchange(ctx context.Context, callback, code string, a Attempt) (*Login, error) {
	if code == "" {
		return nil, errors.New("it sent no code")
	}
	d, err := p.discovered(ctx)
	if err != nil {
		return nil, err
	}
	token, err := p.grant(ctx, d, callback, func(ctx context.Context, config *oauth2.Config) (*oauth2.Token, error) {
		return config.Exchange(ctx, code, oauth2.VerifierOption(a.Verifier))
	})
	if err != nil {
		return nil, p.grantError(err, code, a.Verifier)
	}
	text, ok := idTokenOf(token)
	if !ok {
		return nil, errors.New("it sent no ID token: openid must be among the scopes")
	}
	verified, err := p.verify(ctx, d, text, token.AccessToken)
	if err != nil {
		return nil, err
	}
	if a.Nonce == "" || subtle.ConstantTimeCompare([]byte(verified.Nonce), []byte(a.Nonce)) != 1 {
		return nil, errors.New("its ID token is not accepted: it is for another attempt to sign in")
	}
	known, err := tokenClaims(verified)
	if err != nil {
		return nil, err
	}
	login, err := p.login(ctx, d, known, token.AccessToken, verified.Subject)
	if err != nil {
		return nil, err
	}
	if p.asksOffline() && token.RefreshToken == "" {
		p.config.Log.WarnContext(ctx, "the provider does not grant offline_access: groups stay as they are, and keys do not end with their owner, until the next sign-in",
			"provider", p.config.Name, "user", login.Name)
	}
	login.IDToken, login.RefreshToken = text, token.RefreshToken
	return login, nil
}

// Refresh asks again about a subject (RFC 6749, section 6). Only [ErrEnded] says that the
// provider vouches for them no more. With any other error a Login may be returned too if
// the provider had given a new refresh token by then, which is all that it has: the one
// that was sent may be worth nothing any more.
func (p *Provider) Refresh(ctx context.Context, refreshToken, subject string) (*Login, error) {
	d, err := p.discovered(ctx)
	if err != nil {
		return nil, err
	}
	token, err := p.grant(ctx, d, "", func(ctx context.Context, config *oauth2.Config) (*oauth2.Token, error) {
		return config.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
	})
	if err != nil {
		err = p.grantError(err, refreshToken)
		if isEnd(err) {
			return nil, fmt.Errorf("%w: %w", ErrEnded, err)
		}
		return nil, err
	}
	if token.RefreshToken == refreshToken {
		token.RefreshToken = "" // oauth2 puts the old one there
	}
	login, err := p.refreshed(ctx, d, token, subject)
	switch {
	case err == nil:
		login.RefreshToken = token.RefreshToken
	case token.RefreshToken != "":
		login = &Login{RefreshToken: token.RefreshToken}
	}
	return login, err
}

// refreshed returns what the answer to a refresh says of a subject.
func (p *Provider) refreshed(ctx context.Context, d *document, token *oauth2.Token, subject string) (*Login, error) {
	text, ok := idTokenOf(token)
	known := claims{}
	if ok {
		verified, err := p.verify(ctx, d, text, token.AccessToken)
		if err != nil {
			return nil, err
		}
		if verified.Subject != subject {
			return nil, errors.New("its ID token is about somebody else than was asked about")
		}
		if known, err = tokenClaims(verified); err != nil {
			return nil, err
		}
	} else if d.UserInfoURL == "" {
		return nil, errors.New("it sent no ID token, and has no userinfo")
	}
	login, err := p.login(ctx, d, known, token.AccessToken, subject)
	if err == nil {
		login.IDToken = text
	}
	return login, err
}

// login returns what claims say of a subject, and userinfo if some are missing.
func (p *Provider) login(ctx context.Context, d *document, known claims, accessToken, subject string) (*Login, error) {
	missing := !known.has(p.config.UsernameClaim) || !known.has(p.config.GroupsClaim)
	if missing && d.UserInfoURL != "" {
		others, err := p.userinfo(ctx, d, accessToken, subject)
		if err != nil {
			return nil, err
		}
		known.fill(p.config.UsernameClaim, others)
		known.fill(p.config.GroupsClaim, others)
	}
	name, groups, err := p.describe(known)
	if err != nil {
		return nil, err
	}
	return &Login{Issuer: p.issuer, Subject: subject, Name: name, Groups: groups}, nil
}

func idTokenOf(token *oauth2.Token) (string, bool) {
	text, ok := token.Extra("id_token").(string)
	return text, ok && text != ""
}
