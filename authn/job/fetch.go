package job

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// maxDocument bounds what an issuer answers, in bytes.
const maxDocument = 1 << 20

// discovery is what is read of an issuer's discovery document (OpenID Connect Discovery
// 1.0, section 3).
type discovery struct {
	Issuer  string `json:"issuer"`
	JWKSURL string `json:"jwks_uri"`
}

// fetch asks the issuer for its keys.
func (s *keySource) fetch(ctx context.Context) (*keySet, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found := &discovery{Issuer: s.issuer, JWKSURL: s.jwksURL}
	if s.jwksURL == "" {
		var err error
		if found, err = s.discover(ctx); err != nil {
			return nil, err
		}
	}
	keys := &keySet{issuer: found.Issuer, asked: time.Now(), number: s.times.Add(1)}
	var err error
	if keys.keys, err = s.fetchKeys(ctx, found.JWKSURL); err != nil {
		s.found = nil // they may be elsewhere now
		return nil, err
	}
	return keys, nil
}

// discover returns the issuer's discovery document, which is asked for once.
func (s *keySource) discover(ctx context.Context) (*discovery, error) {
	if s.found != nil {
		return s.found, nil
	}
	found := new(discovery)
	url := strings.TrimSuffix(s.issuer, "/") + "/.well-known/openid-configuration"
	if err := s.get(ctx, url, found); err != nil {
		return nil, err
	}
	switch {
	case !sameIssuer(found.Issuer, s.issuer):
		return nil, fmt.Errorf("%s is of another issuer, %q", url, found.Issuer)
	case found.JWKSURL == "":
		return nil, fmt.Errorf("%s has no jwks_uri", url)
	case strings.HasPrefix(s.issuer, "https:") && !strings.HasPrefix(found.JWKSURL, "https:"):
		return nil, fmt.Errorf("%s has a jwks_uri without TLS, %q", url, found.JWKSURL)
	}
	s.found = found
	return found, nil
}

// fetchKeys returns those of the issuer's keys that sign tokens. Of other kinds there may
// be as well (RFC 7517, section 5).
func (s *keySource) fetchKeys(ctx context.Context, url string) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := s.get(ctx, url, &set); err != nil {
		return nil, err
	}
	if set.Keys == nil {
		return nil, fmt.Errorf("%s has no keys", url)
	}
	var keys []jose.JSONWebKey
	for _, text := range set.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(text); err == nil && signs(&key) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// get reads a JSON document.
func (s *keySource) get(ctx context.Context, url string, document any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "caddy-registry")
	answer, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, answer.Status)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDocument+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", url, err)
	case len(body) > maxDocument:
		return fmt.Errorf("%s has over %d bytes", url, maxDocument)
	}
	if err := json.Unmarshal(body, document); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	return nil
}
