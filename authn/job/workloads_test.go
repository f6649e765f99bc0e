package job_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/eblume/caddy-registry/authn/job"
	"github.com/eblume/caddy-registry/glob"
)

func forgejoClaims() claims {
	return claims{
		"iss": forge, "aud": registry, "sub": "repo:eblume-2/app-17:ref:refs/heads/main",
		"exp": unix(time.Hour), "nbf": unix(0), "iat": unix(0),
		"actor": "eblume", "actor_id": "2", "base_ref": "", "event_name": "push", "head_ref": "",
		"ref": "refs/heads/main", "ref_protected": "false", "ref_type": "branch",
		"repository": "eblume/app", "repository_id": "17", "repository_owner": "eblume", "repository_owner_id": "2",
		"run_attempt": "1", "run_id": "88", "run_number": "12", "sha": "6e5a1c7c1f9c4b5a8f1e8f1f64ae0ba5b7e0c5ab",
		"workflow": "build.yml", "workflow_ref": "eblume/app/.forgejo/workflows/build.yml@refs/heads/main",
	}
}

func githubClaims() claims {
	return claims{
		"iss": forge, "aud": registry, "sub": "repo:octo-org/octo-repo:environment:prod",
		"exp": unix(5 * time.Minute), "nbf": unix(-5 * time.Minute), "iat": unix(0), "jti": "0b8c1f8e-7a6e-4c5c-8d9d-1f0d3f9c2a11",
		"actor": "dependabot[bot]", "actor_id": "12", "environment": "prod", "event_name": "workflow_dispatch",
		"job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main",
		"ref":              "refs/heads/main", "ref_protected": "true", "ref_type": "branch",
		"repository": "octo-org/octo-repo", "repository_id": "74", "repository_owner": "octo-org", "repository_visibility": "private",
		"run_attempt": "2", "run_id": "9876543210", "run_number": "10", "runner_environment": "github-hosted",
	}
}

func gitlabClaims() claims {
	return claims{
		"iss": forge, "aud": registry, "sub": "project_path:my-group/my-project:ref_type:tag:ref:v1.2.0",
		"exp": unix(time.Hour), "nbf": unix(-5 * time.Second), "iat": unix(0), "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
		"namespace_id": "72", "namespace_path": "my-group", "project_id": "20", "project_path": "my-group/my-project",
		"user_id": "1", "user_login": "sample-user", "user_identities": []any{map[string]any{"provider": "github", "extern_uid": "2435223452345"}},
		"pipeline_id": "574", "job_id": "302", "ref": "v1.2.0", "ref_type": "tag", "ref_protected": "true",
		"runner_id": 1, "groups_direct": []string{"mygroup/mysubgroup"},
		"ci_config_ref_uri": "gitlab.example.com/my-group/my-project//.gitlab-ci.yml@refs/tags/v1.2.0",
	}
}

func kubernetesClaims() claims {
	return claims{
		"iss": forge, "aud": []string{registry, "https://kubernetes.default.svc"}, "sub": "system:serviceaccount:ci:builder",
		"exp": unix(time.Hour), "nbf": unix(0), "iat": unix(0), "jti": "ea28ed49-2e11-4280-9ec5-bc3d1d84661a",
		"kubernetes.io": map[string]any{
			"namespace": "ci", "serviceaccount": map[string]any{"name": "builder", "uid": "14ee3fa4-a7e2-420f-9f9a-dbc4507c3798"},
			"pod": map[string]any{"name": "builder-7d9f", "uid": "5e0bd49b-f040-43b0-99b7-22765a53f7f3"},
		},
	}
}

func TestWorkloadsAreIdentified(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := []jose.JSONWebKey{rsaKey(), oldKey, {Key: edwards, KeyID: "ed", Algorithm: "EdDSA"}}
	ci := newIssuer(keys...)
	for name, test := range map[string]struct {
		claims claims
		match  []job.Match
		user   string
		groups []string
		want   job.Identity
	}{
		"Forgejo": {
			forgejoClaims(), []job.Match{{"repository", glob.Set{"eblume/*"}}}, "ci:{claim.repository}", []string{"artifact-workloads"},
			job.Identity{User: "ci:eblume/app", Groups: []string{"artifact-workloads"}},
		},
		"GitHub": {
			githubClaims(), []job.Match{
				{"sub", glob.Set{"repo:octo-org/*:environment:{staging,prod}"}}, {"job_workflow_ref", glob.Set{"octo-org/octo-automation/**"}},
				{"actor", glob.Set{"octocat", `dependabot\[bot\]`}},
			}, "{claim.actor}@{claim.repository_owner}", []string{"{claim.repository_owner}", "env:{claim.environment}:{claim.ref}"},
			job.Identity{User: "dependabot[bot]@octo-org", Groups: []string{"octo-org", "env:prod:refs/heads/main"}},
		},
		"GitLab": {
			gitlabClaims(), []job.Match{
				{"project_path", glob.Set{"my-group/**"}}, {"ref_protected", glob.Set{"true"}}, {"ref_type", glob.Set{"branch", "tag"}},
				{"ci_config_ref_uri", glob.Set{"gitlab.example.com/my-group/*//.gitlab-ci.yml@refs/tags/*"}},
			}, "gitlab:{claim.sub}", nil,
			job.Identity{User: "gitlab:project_path:my-group/my-project:ref_type:tag:ref:v1.2.0"},
		},
		"Kubernetes": {
			kubernetesClaims(), []job.Match{{"sub", glob.Set{"system:serviceaccount:ci:*"}}}, "{claim.sub}", nil,
			job.Identity{User: "system:serviceaccount:ci:builder"},
		},
	} {
		for _, key := range keys {
			config := ci.config()
			config.Match, config.User, config.Groups = test.match, test.user, test.groups
			got := accept(t, newVerifier(t, config), sign(t, key, test.claims))
			test.want.Expires = time.Unix(test.claims["exp"].(int64), 0)
			if !reflect.DeepEqual(*got, test.want) {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
}

func TestAnIssuerIsAskedOverTLS(t *testing.T) {
	ci := newIssuer(oldKey)
	server := httptest.NewUnstartedServer(ci)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	config := ci.config()
	config.Issuer, config.Client = server.URL+"/api/actions", server.Client()
	ci.set(func() { ci.document = map[string]any{"issuer": config.Issuer, "jwks_uri": server.URL + keysPath} })
	token := sign(t, oldKey, jobClaims(claims{"iss": config.Issuer}))
	accept(t, newVerifier(t, config), token)
	config.Client = nil // which does not trust the server
	verifier := newVerifier(t, config)
	if err := refuse(t, verifier, token, "cannot be read now"); !errors.Is(err, job.ErrUnavailable) {
		t.Error(err)
	}
}

func TestWhatDoesNotMatchIsToldAndNothingElse(t *testing.T) {
	ci := newIssuer(oldKey)
	for name, test := range map[string]struct {
		claims claims
		want   string
	}{
		"value":    {claims{"repository": "evil/app"}, `claim repository is "evil/app", and must match eblume/* or acme/**`},
		"slash":    {claims{"repository": "eblume/app/x"}, `claim repository is "eblume/app/x", and must match eblume/* or acme/**`},
		"missing":  {claims{"repository": nil}, `claim repository is missing or no string, and must match eblume/* or acme/**`},
		"second":   {claims{"ref": "refs/heads/x"}, `claim ref is "refs/heads/x", and must match refs/heads/main`},
		"long":     {claims{"ref": strings.Repeat("x", 5000)}, `claim ref is "` + strings.Repeat("x", 255) + `"..., and must match refs/heads/main`},
		"audience": {claims{"aud": "https://other.example"}, "let the job ask its CI for a token whose audience is " + registry},
	} {
		config := ci.config()
		config.Match = []job.Match{{"repository", glob.Set{"eblume/*", "acme/**"}}, {"ref", glob.Set{"refs/heads/main"}}}
		verifier := newVerifier(t, config)
		token := sign(t, oldKey, jobClaims(test.claims))
		for range 2 { // the second time it is remembered
			err := refuse(t, verifier, token, test.want)
			if !errors.Is(err, job.ErrNoMatch) {
				t.Errorf("%s: %v", name, err)
			}
			for _, other := range []string{"build.yml", "6e5a1c7c", "actor", "other.example"} {
				if strings.Contains(err.Error(), other) {
					t.Errorf("%s: %v tells %s", name, err, other)
				}
			}
		}
	}
}

func TestConfigurationsOfOneIssuerTakeTheirOwnTokens(t *testing.T) {
	ci := newIssuer(oldKey)
	first, second, third := ci.config(), ci.config(), ci.config()
	second.Match = []job.Match{{"repository", glob.Set{"acme/*"}}}
	third.Audience = "other.example.com"
	verifiers := []*job.Issuer{newVerifier(t, first), newVerifier(t, second), newVerifier(t, third)}
	for taken, token := range []string{
		sign(t, oldKey, jobClaims(nil)),
		sign(t, oldKey, jobClaims(claims{"repository": "acme/app"})),
		sign(t, oldKey, jobClaims(claims{"aud": "other.example.com"})),
	} {
		for i, verifier := range verifiers {
			if !verifier.Issued(token) {
				t.Errorf("%d does not see token %d as the issuer's", i, taken)
			}
			if _, err := verifier.Verify(context.Background(), token); (err == nil) != (i == taken) || err != nil && !errors.Is(err, job.ErrNoMatch) {
				t.Errorf("%d, token %d: %v", i, taken, err)
			}
		}
	}
}

// Clusters that nobody gave an issuer of their own all have the same.
func TestClustersWithTheSameIssuerAreToldByTheirKeys(t *testing.T) {
	const cluster = "https://kubernetes.default.svc.cluster.local"
	bubble(t, func(t *testing.T, east *issuer) {
		west := newIssuer(newKey)
		tokens := []string{sign(t, oldKey, jobClaims(claims{"iss": cluster})), sign(t, newKey, jobClaims(claims{"iss": cluster}))}
		for own, ci := range []*issuer{east, west} {
			config := ci.config()
			config.Issuer, config.JWKSURL = cluster, "https://forge.example.com"+keysPath
			verifier := newVerifier(t, config)
			accept(t, verifier, tokens[own])
			for range 10 {
				time.Sleep(time.Second)
				refuse(t, verifier, tokens[1-own], "none of the issuer's keys")
			}
			if discoveries, keys := ci.requests(); discoveries != 0 || keys != 2 {
				t.Errorf("%d discoveries, %d requests for keys", discoveries, keys)
			}
		}
	})
}

func TestVersionChangesWithWhatDecides(t *testing.T) {
	ci := newIssuer()
	version := ci.verifier(t).Version()
	if len(version) != 16 || ci.verifier(t).Version() != version {
		t.Errorf("version %q", version)
	}
	for name, test := range map[string]struct {
		change func(*job.Config)
		same   bool
	}{
		"name":         {func(c *job.Config) { c.Name = "other" }, true},
		"client":       {func(c *job.Config) { c.Client = nil }, true},
		"issuer":       {func(c *job.Config) { c.Issuer += "/" }, false},
		"audience":     {func(c *job.Config) { c.Audience += "x" }, false},
		"keys":         {func(c *job.Config) { c.JWKSURL = forge }, false},
		"claim":        {func(c *job.Config) { c.Match[0].Claim = "sub" }, false},
		"globs":        {func(c *job.Config) { c.Match[0].Values = glob.Set{"eblume/*", "acme/*"} }, false},
		"second match": {func(c *job.Config) { c.Match = append(c.Match, job.Match{"ref", glob.Set{"x"}}) }, false},
		"user":         {func(c *job.Config) { c.User = "{claim.repository}" }, false},
		"groups":       {func(c *job.Config) { c.Groups = nil }, false},
		"more groups":  {func(c *job.Config) { c.Groups = []string{"artifact-workloads", "x"} }, false},
	} {
		config := ci.config()
		test.change(&config)
		if got := newVerifier(t, config).Version(); (got == version) != test.same {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestConfigurationsThatCannotBeMeantAreRefused(t *testing.T) {
	ci := newIssuer()
	for want, change := range map[string]func(*job.Config){
		"issuer is needed":             func(c *job.Config) { c.Issuer = "" },
		"audience is needed":           func(c *job.Config) { c.Audience = "" },
		"match is needed":              func(c *job.Config) { c.Match = nil },
		"match must have":              func(c *job.Config) { c.Match = []job.Match{{Claim: "sub"}} },
		"user: bad template: it is":    func(c *job.Config) { c.User = "" },
		"user: bad template \"{x}\"":   func(c *job.Config) { c.User = "{x}" },
		"groups: bad template \"a{\"":  func(c *job.Config) { c.Groups = []string{"ok", "a{"} },
		"groups: bad template: it is ": func(c *job.Config) { c.Groups = []string{""} },
	} {
		config := ci.config()
		change(&config)
		if _, err := job.NewIssuer(config); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if discoveries, keys := ci.requests(); discoveries+keys != 0 {
		t.Error("the issuer was asked")
	}
}
