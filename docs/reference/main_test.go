package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestReferenceSaysWhatTheDocCommentsSay(t *testing.T) {
	want, err := generate("../../caddymodule")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../reference.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/reference.md is out of date: go run ./docs/reference > docs/reference.md")
	}
}

func TestEveryOptionIsDocumented(t *testing.T) {
	page, err := generate("../../caddymodule")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"registry", "registry.storage.filesystem", "registry.database.sqlite", "http.handlers.registry", "http.handlers.registry_auth", "http.handlers.registry_cache", "http.handlers.registry_ui"} {
		if !strings.Contains(string(page), "## `"+id+"`\n") {
			t.Errorf("module %s is missing", id)
		}
	}
	for _, path := range []string{"upstreams", "upstreams.fresh", "oidc", "workload_identities", "workload_identities.match", "policies", "policies.rules"} {
		if !strings.Contains(string(page), "\n### Each of `"+path+"`\n") {
			t.Errorf("the options of %s are missing", path)
		}
	}
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| `") && strings.HasSuffix(line, "|  |\n") {
			t.Errorf("no doc comment: %s", line)
		}
	}
}
