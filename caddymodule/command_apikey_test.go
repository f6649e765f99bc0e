package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// TestKeysAreMadeWithTheServerUpOrDown and work at once, or from its start.
func TestKeysAreMadeWithTheServerUpOrDown(t *testing.T) {
	g := runGuarded(t, createPolicy)
	out, err := g.command("apikey", "create", "--user", "up", "--group", "artifact-workloads", "--group", "others", "--label", "a key", "--expires", "10d", "--scope", "read:team/**", "--scope", "create:team/app")
	if err != nil || !regexp.MustCompile(`^crk_[0-9A-Za-z]{38}\n$`).MatchString(out) {
		t.Fatalf("%q, %v", out, err)
	}
	up := basic("up", strings.TrimSpace(out))
	if a := g.send(up, http.MethodPost, "/v2/team/app/blobs/uploads/"); a.status != http.StatusAccepted {
		t.Errorf("while the server is up: %d %s", a.status, a.body)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	down := basic("down", g.key("down", "--group", "artifact-workloads"))
	table, err := g.command("apikey", "list")
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"ID", "USER", "LABEL", "SCOPES", "LAST USED", "STATE", "up", "a key", "read:team/** create:team/app", "down", "never", "until "} {
		if !strings.Contains(table, words) {
			t.Errorf("the list has no %q:\n%s", words, table)
		}
	}
	if strings.Contains(table, "crk_") || strings.Count(table, "\n") != 3 {
		t.Errorf("the list:\n%s", table)
	}
	keys := g.keysByUser()
	if k := keys["up"]; k.Label != "a key" || fmt.Sprint(k.Groups, k.Scopes) != "[artifact-workloads others] [read:team/** create:team/app]" || k.LastUsed == nil || k.Revoked != nil ||
		k.Expires.Sub(k.Created) != 10*24*time.Hour {
		t.Errorf("%+v", k)
	}
	if k := keys["down"]; k.Expires.Sub(k.Created) != 90*24*time.Hour || k.Groups == nil || k.Scopes == nil || k.LastUsed != nil {
		t.Errorf("%+v", k)
	}
	if _, err := g.command("apikey", "revoke", keys["up"].ID); err != nil {
		t.Error(err)
	}
	g.run(g.options)
	if a := g.send(up, http.MethodPost, "/v2/team/app/blobs/uploads/"); a.refusal() != "401 UNAUTHORIZED" {
		t.Errorf("the key that was revoked: %d %s", a.status, a.body)
	}
	if a := g.send(down, http.MethodPost, "/v2/team/app/blobs/uploads/"); a.status != http.StatusAccepted {
		t.Errorf("the key that was made while the server was down: %d %s", a.status, a.body)
	}
	if _, err := g.command("apikey", "revoke", keys["down"].ID); err != nil {
		t.Error(err)
	}
	if a := g.send(down, http.MethodPost, "/v2/team/app/blobs/uploads/"); a.refusal() != "401 UNAUTHORIZED" {
		t.Errorf("revoked while the server is up: %d %s", a.status, a.body)
	}
	if table, err := g.command("apikey", "list"); err != nil || strings.Count(table, "revoked ") != 2 {
		t.Errorf("%v\n%s", err, table)
	}
}

// commandKey is a key as `apikey list --json` tells it.
type commandKey struct {
	ID, User, Label  string
	Groups, Scopes   []string
	Created, Expires time.Time
	LastUsed         *time.Time `json:"last_used"`
	Revoked          *time.Time
}

func (g *guarded) keysByUser() map[string]commandKey {
	g.t.Helper()
	out, err := g.command("apikey", "list", "--json")
	if err != nil {
		g.t.Fatal(err)
	}
	var keys []commandKey
	if err := json.Unmarshal([]byte(out), &keys); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	byUser := make(map[string]commandKey)
	for _, key := range keys {
		byUser[key.User] = key
	}
	return byUser
}

func TestKeysThatCannotBeAreRefused(t *testing.T) {
	g := runGuarded(t, createPolicy)
	for args, want := range map[string]string{
		"create":                                      `required flag(s) "user" not set`,
		"create --user=":                              `user ""`,
		"create --user=a:b":                           "without a colon",
		"create --user=ci extra":                      "extra",
		"create --user=ci --expires=soon":             "--expires",
		"create --user=ci --expires=0s":               "--expires",
		"create --user=ci --expires=-1h":              "--expires",
		"create --user=ci --scope=read":               `scope "read"`,
		"create --user=ci --scope=pull:**":            `unknown action "pull"`,
		"create --user=ci --scope=read:[":             "read:[",
		"create --user=ci --label=" + long(101):       "label",
		"revoke":                                      "accepts 1 arg(s)",
		"revoke 00000000-0000-4000-8000-000000000000": "API key unknown",
		"revoke ../keys":                              "API key unknown",
		"list more":                                   "more",
	} {
		out, err := g.command(append([]string{"apikey"}, strings.Fields(args)...)...)
		if err == nil || strings.Contains(out, "crk_") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, %v, want %q", args, out, err, want)
		}
	}
	if _, err := g.command("apikey", "revoke", ""); err == nil || !strings.Contains(err.Error(), "apikey list") {
		t.Errorf("revoking nothing: %v", err)
	}
	if keys := g.keysByUser(); len(keys) != 0 {
		t.Errorf("there are keys: %v", keys)
	}
}

func long(n int) string { return strings.Repeat("x", n) }

// TestCommandsSayWhichConfigurationTheyNeed has none, one that is wrong, and one of JSON.
func TestCommandsSayWhichConfigurationTheyNeed(t *testing.T) {
	wrong := writeCaddyfile(t, "{\n\tregistry {\n\t\tcolour red\n\t}\n}\n")
	for file, want := range map[string]string{filepath.Join(t.TempDir(), "none"): "--config names another file", wrong: "colour"} {
		if _, err := command(t, "apikey", "list", "--config", file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
	file := filepath.Join(t.TempDir(), "caddy.json")
	config := fmt.Sprintf(`{"apps":{"registry":{"storage":{"module":"filesystem","path":%q}}}}`, t.TempDir())
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, "apikey", "create", "--user", "ci", "--config", file); err != nil || !strings.HasPrefix(out, "crk_") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := command(t, "apikey", "list", "--config", file); err != nil || !strings.Contains(out, "ci") {
		t.Errorf("%q, %v", out, err)
	}
}
