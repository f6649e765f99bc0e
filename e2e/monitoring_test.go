//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// dashboard is what of Grafana's is looked at.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// prometheus is a running server and what it scrapes.
type prometheus struct {
	*home
	addr string
}

// TestMonitoring has Prometheus scrape a registry where everything happens that metrics
// tell of, with the example's rules, and evaluates each query of the example's dashboard.
func TestMonitoring(t *testing.T) {
	promtool := tool(t, "promtool")
	up := upstreamtest.Start(t)
	up.SetRateLimit(100, 77, 0, 0)
	image := up.AddImage("team/app", "v1", upstreamtest.Bytes(1, 1<<20))
	g := newGuarded(t)
	g.start("metrics /metrics\n" + cacheOf(cached("docker.io", up.URL())))
	mustPull(t, g.anonymous, "docker.io/team/app", "v1", image)
	mustPush(t, g.as(g.madeKey("alice", "admins")), "team/own", "v1", []byte("blob"))
	expect(t, http.StatusUnauthorized)(g.authorized("Bearer crk_wrong")(http.MethodGet, "/v2/team/own/tags/list", nil, nil))
	expect(t, http.StatusNotFound)(g.anonymous(http.MethodGet, "/v2/docker.io/team/none/manifests/v1", nil, nil))
	g.home.run(caddyBinary, "registry", "gc", "--config", g.config)

	h := newHome(t)
	rules := h.write("rules.yml", exampleFile(t, "monitoring/rules.yml"))
	config := h.write("prometheus.yml", replaced(t, exampleFile(t, "monitoring/prometheus.yml"), "localhost:5050", g.addr, "scrape_interval: 15s", "scrape_interval: 1s\n  evaluation_interval: 1s"))
	if out := h.run(promtool, "check", "config", config); !strings.Contains(out, "SUCCESS") {
		t.Errorf("promtool check config: %s", out)
	}
	page := expect(t, http.StatusOK)(g.anonymous(http.MethodGet, "/metrics", nil, nil))
	metrics := h.write("metrics", string(page.body))
	h.run("/bin/sh", "-c", `"$1" check metrics <"$2"`, "sh", promtool, metrics)
	h.testRules(promtool, rules)

	p := &prometheus{home: h, addr: "127.0.0.1:" + lastingPort(t)}
	h.start(tool(t, "prometheus"), "--config.file="+config, "--storage.tsdb.path="+h.path("data"), "--web.listen-address="+p.addr).waitUntil(func() error {
		// Rates need two samples.
		found, err := p.query(`count_over_time(registry_repositories{namespace="private"}[5m]) > 1`)
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("the registry is not scraped yet")
		}
		return err
	})
	d := decode[dashboard](t, []byte(exampleFile(t, "monitoring/dashboard.json")))
	if len(d.Panels) == 0 {
		t.Error("the dashboard has no panels")
	}
	asGrafana := strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h")
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			found, err := p.query(asGrafana.Replace(target.Expr))
			if err != nil || len(found) == 0 {
				t.Errorf("%s: %s has %d results, %v", panel.Title, target.Expr, len(found), err)
			}
		}
	}
	eventually(t, "all rules are evaluated", func() error {
		loaded, err := p.get("/api/v1/rules")
		if err == nil && strings.Count(string(loaded), `"health":"ok"`) != strings.Count(string(h.read("rules.yml")), "- alert:") {
			err = fmt.Errorf("not all are well: %s", loaded)
		}
		return err
	})
}

// get returns the data of an answer of Prometheus' API.
func (p *prometheus) get(path string) (json.RawMessage, error) {
	response, err := http.Get("http://" + p.addr + path)
	if err != nil {
		return nil, err
	}
	a, err := readAnswer(response)
	if err != nil {
		return nil, err
	}
	var body struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.Status != "success" {
		return nil, fmt.Errorf("%d %s: %w", a.status, body.Error, err)
	}
	return body.Data, nil
}

// query returns the results of a query now.
func (p *prometheus) query(expr string) ([]json.RawMessage, error) {
	data, err := p.get("/api/v1/query?" + url.Values{"query": {expr}}.Encode())
	if err != nil {
		return nil, err
	}
	var vector struct{ Result []json.RawMessage }
	err = json.Unmarshal(data, &vector)
	return vector.Result, err
}

// testRules has each alert fire by what it is for, and be silent without.
func (h *home) testRules(promtool, rules string) {
	h.t.Helper()
	content, err := os.ReadFile("testdata/rules_test.yml")
	if err != nil {
		h.t.Fatal(err)
	}
	for alert := range strings.Lines(exampleFile(h.t, "monitoring/rules.yml")) {
		if _, name, ok := strings.Cut(strings.TrimSpace(alert), "- alert: "); ok && !strings.Contains(string(content), "alertname: "+name+",") {
			h.t.Errorf("alert %s is not tested", name)
		}
	}
	h.run(promtool, "test", "rules", h.write("rules_test.yml", replaced(h.t, string(content), "rules.yml", rules)))
}
