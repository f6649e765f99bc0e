package caddymodule_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/eblume/caddy-registry/distribution/conformancetest"
)

// TestConformance runs the OCI conformance suite, at the version that go.mod pins, with
// every optional API and every kind of data switched on.
func TestConformance(t *testing.T) {
	suite := conformancetest.Build(t)
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			port := freePort(t)
			run(t, global(t.TempDir(), "sparse on")+fmt.Sprintf("http://127.0.0.1:%d {\n\tregistry\n}", port))
			conformancetest.Run(t, suite, fmt.Sprintf("127.0.0.1:%d", port), "OCI_VERSION="+version)
		})
	}
	t.Run("dev on a restored backup", func(t *testing.T) {
		s, file := upkeepSite(t, "")
		want := s.putIndex("team/app", "v1", "1")
		backup := filepath.Join(t.TempDir(), "backup")
		do(t, file, "backup", backup)
		restored, into := upkeepSite(t, "sparse on")
		do(t, into, "restore", backup)
		conformancetest.Run(t, suite, restored.host, "OCI_VERSION=dev")
		if a := restored.send(nil, http.MethodGet, "/v2/team/app/manifests/v1"); a.header.Get("Docker-Content-Digest") != want.String() {
			t.Errorf("what was restored: %d %s", a.status, a.body)
		}
	})
	// What it asks for it asks with a token that it fetches by its key.
	t.Run("dev with access control", func(t *testing.T) {
		g := newGuarded(t)
		g.sparse = "sparse on"
		g.run("policy conformance/** {\nuser suite read create update delete\n}")
		conformancetest.Run(t, suite, g.host, "OCI_VERSION=dev",
			"OCI_USERNAME=suite", "OCI_PASSWORD="+g.key("suite"), "OCI_REPO1=conformance/repo1", "OCI_REPO2=conformance/repo2")
	})
}
