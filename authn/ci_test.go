package authn

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/glob"
)

const forge = "https://forge.test/api/actions"

// ci signs tokens of jobs. It answers requests without a network.
type ci struct {
	key  jose.JSONWebKey
	down bool
}

func newCI(t testing.TB) *ci {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &ci{key: jose.JSONWebKey{Key: key, KeyID: "ci", Algorithm: "ES256", Use: "sig"}}
}

// RoundTrip is the network between a site and the issuer.
func (c *ci) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.down {
		return nil, errors.New("connection refused")
	}
	answer := any(map[string]any{"issuer": forge, "jwks_uri": forge + "/keys"})
	if strings.HasSuffix(r.URL.Path, "/keys") {
		answer = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{c.key.Public()}}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(body)), Request: r,
	}, nil
}

// issuer is a workload identity that takes jobs of some repositories.
func (c *ci) issuer(t testing.TB, name, repositories string) *job.Issuer {
	t.Helper()
	issuer, err := job.NewIssuer(job.Config{
		Name: name, Issuer: forge, Audience: "registry.test", User: "ci:{claim.repository}", Groups: []string{"writers"},
		Match:  []job.Match{{Claim: "repository", Values: glob.Set{repositories}}},
		Client: &http.Client{Transport: c},
	})
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

// token is that of a job of a repository.
func (c *ci) token(t testing.TB, repository string, lifetime time.Duration) string {
	t.Helper()
	payload, err := json.Marshal(map[string]any{
		"iss": forge, "aud": "registry.test", "sub": "job", "repository": repository,
		"iat": time.Now().Unix(), "exp": time.Now().Add(lifetime).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: c.key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAJobIsWhoItsTokenSays(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	token := ci.token(t, "eblume/app", time.Minute)
	for name, headers := range map[string][]string{
		"as Bearer":                       bearer(token),
		"as a password":                   basic("ci:eblume/app", token),
		"as a password of anybody":        basic("somebody", token),
		"as a password of nobody":         basic("", token),
		"as a password of another's name": basic("alice", token),
	} {
		caller := s.whoHas(headers...)
		if caller.Name != "ci:eblume/app" || len(caller.Groups) != 1 || caller.Groups[0] != "writers" || caller.Job != s.Jobs[0] ||
			caller.Key != nil || caller.Token != nil || caller.JobExpires.IsZero() || caller.Scopes != nil {
			t.Errorf("%s: %+v", name, caller)
		}
	}
}

func TestAJobThatIsNotLetInIsToldWhy(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	s.wantRefused("job", "forgejo: the token has expired", bearer(ci.token(t, "eblume/app", -time.Second))...)
	s.wantRefused("job", `claim repository is "mallory/app"`, bearer(ci.token(t, "mallory/app", time.Minute))...)
	s.wantRefused("job", "signature", bearer(newCI(t).token(t, "eblume/app", time.Minute))...)
	s.Jobs = nil
	s.wantRefused("unknown", "neither an API key nor a token of an issuer that is trusted here", bearer(ci.token(t, "eblume/app", time.Minute))...)
}

func TestWhatOneWorkloadIdentityDoesNotTakeAnotherMay(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	s.Jobs = []*job.Issuer{ci.issuer(t, "first", "eblume/*"), ci.issuer(t, "second", "other/*")}
	for repository, want := range map[string]string{"eblume/app": "first", "other/app": "second"} {
		if got := s.whoHas(bearer(ci.token(t, repository, time.Minute))...); got.Job.Name() != want {
			t.Errorf("%s is of %s", repository, got.Job.Name())
		}
	}
	s.wantRefused("job", "second: ", bearer(ci.token(t, "mallory/app", time.Minute))...)
}

func TestAJobIsNotRefusedWhileItsIssuerIsAway(t *testing.T) {
	s, ci := newSite(t), newCI(t)
	ci.down = true
	s.Jobs = []*job.Issuer{ci.issuer(t, "forgejo", "eblume/*")}
	r := newRequest(http.MethodGet, "/v2/", bearer(ci.token(t, "eblume/app", time.Minute))...)
	_, err := s.Identify(r)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "forgejo") {
		t.Fatal(err)
	}
	if status, code, _, retry := s.Refused(r, err); status != http.StatusServiceUnavailable || code != "UNAVAILABLE" || retry <= 0 {
		t.Errorf("%d %s, again after %s", status, code, retry)
	}
	if len(s.failed) != 0 || s.audit.Len() != 0 {
		t.Errorf("counted as %v, audited %s", s.failed, &s.audit)
	}
}
