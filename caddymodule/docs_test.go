package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v3"
)

// fenced matches a block of a Markdown file and what language it is in. Blocks of lists
// are indented.
var fenced = regexp.MustCompile("(?ms)^[ \t]*```([a-z]*)\n(.*?)^[ \t]*```$")

// docFiles are what people read.
func docFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "../examples/*/*.md", "../examples/*/*/*.md", "../bench/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	return files
}

// TestConfigurationInTheDocsIsRight: each block is adapted and validated, or read by what
// reads such files. Commands are run by the tests of clients.
func TestConfigurationInTheDocsIsRight(t *testing.T) {
	for _, name := range []string{"OIDC_CLIENT_SECRET", "HUB_USER", "HUB_TOKEN", "S3_KEY", "S3_SECRET"} {
		t.Setenv(name, "secret")
	}
	t.Setenv("REGISTRY_DATABASE_URL", "postgres://me@localhost/registry")
	dockerConfig := filepath.Join(t.TempDir(), "docker.json")
	if err := os.WriteFile(dockerConfig, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	blocks := make(map[string]int)
	for _, file := range docFiles(t) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(file) == "reference.md" {
			continue // it is made from doc comments, and has syntax rather than configuration
		}
		for i, block := range fenced.FindAllStringSubmatch(string(content), -1) {
			language, text := block[1], block[2]
			blocks[language]++
			t.Run(fmt.Sprintf("%s %d %s", filepath.Base(file), i, language), func(t *testing.T) {
				var err error
				switch language {
				case "caddyfile":
					err = validateFragment(strings.NewReplacer("/etc/registry/docker.json", dockerConfig,
						"/var/lib/registry", t.TempDir(), "/var/log", t.TempDir()).Replace(text))
				case "json":
					err = json.Unmarshal([]byte(text), new(any))
				case "yaml":
					err = yaml.Unmarshal([]byte(text), new(any))
				case "toml":
					err = toml.Unmarshal([]byte(text), new(map[string]any))
				case "sh", "fish", "":
				default:
					err = fmt.Errorf("nothing here reads %s", language)
				}
				if err != nil {
					t.Errorf("%v\n%s", err, text)
				}
			})
		}
	}
	for _, language := range []string{"caddyfile", "json", "yaml", "toml", "sh"} {
		if blocks[language] == 0 {
			t.Errorf("no block of %s was found", language)
		}
	}
}

// validateFragment validates a Caddyfile, or a part of one where that belongs.
func validateFragment(text string) error {
	var first error
	for _, around := range []string{
		"%s",
		"http://localhost:1 {\n%s\nregistry\n}",
		"http://localhost:1 {\nregistry_auth {\n%s\n}\nregistry\n}",
		"http://localhost:1 {\nregistry_cache {\n%s\n}\nregistry\n}",
		"http://localhost:1 {\nregistry_cache {\nupstream docker.io\n%s\n}\nregistry\n}",
	} {
		config, err := tryAdapt(fmt.Sprintf(around, text))
		if err == nil {
			var parsed caddy.Config
			if err = json.Unmarshal(config, &parsed); err == nil {
				err = caddy.Validate(&parsed)
			}
		}
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// link matches where a Markdown file leads.
var link = regexp.MustCompile(`\]\(([^)#\s]*)(#[^)\s]*)?\)`)

// TestLinksInTheDocsLeadSomewhere for those to files of this repository.
func TestLinksInTheDocsLeadSomewhere(t *testing.T) {
	found := 0
	for _, file := range docFiles(t) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(string(content), -1) {
			path, anchor := match[1], strings.TrimPrefix(match[2], "#")
			if strings.Contains(path, "://") {
				continue
			}
			found++
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if anchor != "" && !headings(t, target)[anchor] {
				t.Errorf("%s: %s has no heading for #%s", file, target, anchor)
			}
		}
	}
	if found == 0 {
		t.Error("there are none")
	}
}

// headings returns the anchors of a Markdown file's headings, as GitHub makes them.
func headings(t *testing.T, file string) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	anchors := make(map[string]bool)
	drop := regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	for line := range strings.Lines(string(content)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimLeft(line, "#")), ""); ok && strings.HasPrefix(line, "#") {
			anchors[strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(text), ""), " ", "-")] = true
		}
	}
	return anchors
}
