package authz_test

import (
	"testing"

	"github.com/eblume/caddy-registry/authz"
)

// What is told of a decision is what the person who was refused, and whoever wrote the
// policies, find the line by.
func TestADecisionNamesTheActionTheRepositoryAndTheLine(t *testing.T) {
	ci := person("ci:x", "artifact-workloads")
	for _, test := range []struct {
		who     *authz.Identity
		actions authz.Action
		target  string
		tag     string
		want    string
	}{
		{
			nil, authz.Read, "blumeops/app", "",
			`anonymous may read "blumeops/app": policy blumeops/** { anonymous read }`,
		}, {
			ci, authz.Update, "blumeops/app", "latest",
			`ci:x may update "blumeops/app:latest": policy blumeops/** { group artifact-workloads update tags latest buildcache* }`,
		}, {
			ci, authz.Update, "blumeops/app", "v1",
			`ci:x may not update "blumeops/app:v1": policy blumeops/** { anonymous read; group artifact-workloads create; group artifact-workloads update tags latest buildcache* }`,
		}, {
			ci, authz.Push, "docker.io/x", authz.AnyTag,
			`ci:x may not create or update "docker.io/x": policy docker.io/** ghcr.io/** { anonymous read }`,
		}, {
			nil, authz.Delete, "private/x", "",
			`anonymous may not delete "private/x": policy private/** { nothing for anonymous }`,
		}, {
			person("bob"), authz.Read, "sealed", "",
			`bob may not read "sealed": policy sealed { nothing for bob }`,
		}, {
			person("bob"), authz.Read, "other/x", "",
			`bob may not read "other/x": no policy names it`,
		}, {
			limited(ci, "read:blumeops/**"), authz.Create, "blumeops/app", "v1",
			`ci:x may not create "blumeops/app:v1": the API key's scopes do not include it`,
		}, {
			limited(ci, "create:**"), authz.Create, "other/x", "v1",
			`ci:x may not create "other/x:v1": no policy names it`,
		},
	} {
		if got := blumeops.Decide(test.who, test.actions, test.target, test.tag).String(); got != test.want {
			t.Errorf("%s\nwant\n%s", got, test.want)
		}
	}
}
