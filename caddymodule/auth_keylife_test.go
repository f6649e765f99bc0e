package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestAKeyGetsASuccessorOfItsKind(t *testing.T) {
	const options = "policy ** {\nuser ci read\n}\n"
	g := runGuarded(t, options)
	out := g.key("ci", "--label", "cron", "--scope", "read:team/**", "--expires", "40d")
	old := bearer(out)
	for _, path := range []string{"/auth/apikey/rotate", "/zot/auth/apikey/rotate"} {
		a := g.send(old, http.MethodPost, path)
		next := madeKey(t, a)
		if lifetime := next.ExpirationDate.Sub(next.CreatedAt); next.Label != "cron" || !slices.Equal(next.Scopes, []string{"read:team/**"}) || lifetime != 40*24*time.Hour || next.APIKey == out {
			t.Errorf("%s: %s", path, a.body)
		}
		for name, header := range map[string]http.Header{"the new one": basic("ci", next.APIKey), "the old one": old} {
			if a := g.send(header, http.MethodGet, "/v2/team/app/tags/list"); a.status != http.StatusNotFound {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
			if a := g.send(header, http.MethodGet, "/v2/other/app/tags/list"); a.refusal() != "403 DENIED" {
				t.Errorf("%s, beyond its scopes: %d %s", name, a.status, a.body)
			}
		}
	}
	// Another key, whose grace is over at once.
	g.run(options + "api_keys {\nrotation_grace 1s\n}")
	short := bearer(g.key("ci"))
	next := madeKey(t, g.send(short, http.MethodPost, "/auth/apikey/rotate"))
	await(t, "the old key ends", func() bool { return g.send(short, http.MethodGet, "/v2/").status == http.StatusUnauthorized })
	if a := g.send(bearer(next.APIKey), http.MethodGet, "/v2/"); a.status != http.StatusOK {
		t.Errorf("the new one: %d %s", a.status, a.body)
	}
}

// TestAJobsKeyLastsAnHourAtMost has a job make a key that outlives its own token.
func TestAJobsKeyLastsAnHourAtMost(t *testing.T) {
	jobs := startForge(t)
	policy := "policy eblume/** {\ngroup artifact-workloads read create\n}\n"
	g := runGuarded(t, jobs.option()+policy)
	job := bearer(jobs.jobToken("eblume/app", nil))
	key := madeKey(t, g.send(job, http.MethodPost, "/auth/apikey", []byte(`{"label":"build"}`)...))
	if lifetime := key.ExpirationDate.Sub(key.CreatedAt); lifetime != time.Hour {
		t.Errorf("it lasts %s", lifetime)
	}
	late := time.Now().Add(2 * time.Hour).UTC().Format(time.RFC3339)
	if a := g.send(job, http.MethodPost, "/auth/apikey", []byte(`{"expirationDate":"`+late+`"}`)...); a.status != http.StatusBadRequest {
		t.Errorf("two hours: %d %s", a.status, a.body)
	}
	// The name has a colon, at which RFC 7617 ends the user.
	for form, header := range map[string]http.Header{"Basic": basic("ci:eblume/app", key.APIKey), "Bearer": bearer(key.APIKey)} {
		if a := g.send(header, http.MethodPost, "/v2/eblume/app/blobs/uploads/"); a.status != http.StatusAccepted {
			t.Errorf("a push, %s: %d %s", form, a.status, a.body)
		}
	}
	if a := g.send(bearer(key.APIKey), http.MethodPost, "/v2/other/app/blobs/uploads/"); a.refusal() != "403 DENIED" {
		t.Errorf("a push elsewhere: %d %s", a.status, a.body)
	}
	for path, want := range map[string]int{"/auth/apikey": http.StatusForbidden, "/auth/apikey/rotate": http.StatusForbidden} {
		if a := g.send(bearer(key.APIKey), http.MethodPost, path); a.status != want {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := g.send(job, http.MethodGet, "/auth/apikey"); a.status != http.StatusUnauthorized {
		t.Errorf("listing keys: %d %s", a.status, a.body)
	}
	g.run(policy) // no jobs any more
	if a := g.send(bearer(key.APIKey), http.MethodPost, "/v2/eblume/app/blobs/uploads/"); a.refusal() != "401 UNAUTHORIZED" {
		t.Errorf("after its workload identity: %d %s", a.status, a.body)
	}
}

func TestAKeyThatEndsSoonSaysSo(t *testing.T) {
	g := newGuarded(t)
	g.beside = "metrics /metrics"
	g.run("policy ** {\nauthenticated read\n}")
	soon, late := g.key("ci", "--expires", "13d"), g.key("ci", "--expires", "15d")
	g.open.putIndex("team/app", "v1", "1")
	var keys []struct {
		ID      string
		Expires time.Time
	}
	out, err := g.command("apikey", "list", "--json")
	if err != nil || json.Unmarshal([]byte(out), &keys) != nil || len(keys) != 2 {
		t.Fatalf("%v, %s", err, out)
	}
	slices.SortFunc(keys, func(a, b struct {
		ID      string
		Expires time.Time
	}) int {
		return a.Expires.Compare(b.Expires)
	})
	want := fmt.Sprintf(`299 - "API key %s expires on %s"`, keys[0].ID, keys[0].Expires.UTC().Format("2006-01-02 15:04 MST"))
	token := g.token(basic("ci", soon), "repository:team/app:pull")
	for name, a := range map[string]answer{
		"a ping":             g.send(basic("ci", soon), http.MethodGet, "/v2/"),
		"a pull":             g.send(bearer(soon), http.MethodGet, "/v2/team/app/manifests/v1"),
		"a pull by a token":  g.send(bearer(token), http.MethodGet, "/v2/team/app/manifests/v1"),
		"a refusal":          g.send(bearer(soon), http.MethodDelete, "/v2/team/app/manifests/v1"),
		"a token":            g.send(basic("ci", soon), http.MethodGet, "/auth/token"),
		"the API for keys":   g.send(bearer(soon), http.MethodGet, "/auth/apikey"),
		"what is not there":  g.send(bearer(soon), http.MethodGet, "/v2/team/app/manifests/none"),
		"a list of the tags": g.send(bearer(soon), http.MethodGet, "/v2/team/app/tags/list"),
	} {
		if got := a.header.Values("Warning"); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %d, Warning %q, want %q", name, a.status, got, want)
		}
	}
	if a := g.send(basic("ci", late), http.MethodGet, "/v2/"); a.header.Values("Warning") != nil {
		t.Errorf("another key: %q", a.header.Values("Warning"))
	}
	metrics := g.get("/metrics").body
	for _, key := range keys {
		line := fmt.Sprintf("registry_api_key_expiry_timestamp_seconds{key=%q} %v\n", key.ID, float64(key.Expires.Unix()))
		if !strings.Contains(metrics, line) {
			t.Errorf("metrics have no %s", line)
		}
	}
	if _, err := g.command("apikey", "revoke", keys[0].ID); err != nil {
		t.Fatal(err)
	}
	if metrics := g.get("/metrics").body; strings.Contains(metrics, keys[0].ID) || !strings.Contains(metrics, keys[1].ID) {
		t.Errorf("metrics after it was revoked:\n%s", metrics)
	}
}

func TestKeysOutliveARestart(t *testing.T) {
	g, _ := runWithProvider(t)
	key, session := g.key("ci"), g.signIn("idp")
	token := g.token(basic("ci", key), "repository:team/app:pull")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	g.run(g.options)
	for name, header := range map[string]http.Header{"a key": basic("ci", key), "a session": session, "a token": bearer(token)} {
		if a := g.send(header, http.MethodGet, "/v2/team/app/tags/list"); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}
