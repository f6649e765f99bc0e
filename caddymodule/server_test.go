package caddymodule_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/eblume/caddy-registry/caddymodule"
)

// TestMain keeps Caddy's own files out of the user's home.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "caddymodule")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, dir); err != nil {
			panic(err)
		}
	}
	caddy.DefaultStorage.Path = caddy.AppDataDir() // which was the user's when Caddy was initialized
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// A process has one Caddy, so tests that run it are not parallel.

// adapt returns the JSON of a Caddyfile.
func adapt(t *testing.T, caddyfile string) []byte {
	t.Helper()
	config, err := tryAdapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func tryAdapt(caddyfile string) ([]byte, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

// run runs a Caddyfile until the test ends, and again replaces what runs.
func run(t *testing.T, caddyfile string) {
	t.Helper()
	if err := caddy.Load(adapt(t, caddyfile), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// givenPorts are those that freePort gave.
var givenPorts sync.Map

// freePort returns a port that nothing listens on, and that it gave to no other test.
func freePort(t *testing.T) int {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, given := givenPorts.LoadOrStore(port, true); !given {
			return port
		}
	}
}

// global returns the global options of a test's server.
func global(dir, options string) string {
	return fmt.Sprintf("{\n\tadmin off\n\tgrace_period 10s\n\tlog {\n\t\toutput discard\n\t}\n\tregistry {\n\t\tstorage filesystem %s\n\t\t%s\n\t}\n}\n", dir, options)
}

// send sends a request without a body, once more if no answer comes: a server that Caddy
// ends, since its configuration failed or was replaced, may have taken the connection
// from the listener that they share.
func send(req *http.Request) (*http.Response, error) {
	resp, err := http.DefaultClient.Do(req)
	if req.Body == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		resp, err = http.DefaultClient.Do(req)
	}
	return resp, err
}

// get returns the status and body of an answer.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := send(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestOtherPathsArePassedOn(t *testing.T) {
	port := freePort(t)
	run(t, global(t.TempDir(), "")+fmt.Sprintf("http://127.0.0.1:%d {\n\t@rest not path /metrics\n\trespond @rest \"below\"\n\tregistry\n\tmetrics /metrics\n}", port))
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	for path, want := range map[string]string{"/v2/": "{}", "/v2": "{}", "/": "below", "/v2x": "below", "/v3/": "below"} {
		if status, body := get(t, base+path); status != http.StatusOK || body != want {
			t.Errorf("%s: %d %q, want %q", path, status, body, want)
		}
	}
	if _, body := get(t, base+"/metrics"); !strings.Contains(body, "caddy_") {
		t.Errorf("/metrics: %q", body)
	}
}

func TestContentOutlivesReloadAndRestart(t *testing.T) {
	port, dir := freePort(t), t.TempDir()
	site := fmt.Sprintf("http://127.0.0.1:%d {\n\tregistry\n}\n", port)
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	run(t, global(dir, "")+site)
	const digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	resp, err := http.Post(base+"/v2/a/b/blobs/uploads/?digest="+digest, "application/octet-stream", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	check := func(when string) {
		t.Helper()
		if status, body := get(t, base+"/v2/a/b/blobs/"+digest); status != http.StatusOK || body != "hello" {
			t.Errorf("%s: %d %q", when, status, body)
		}
	}
	check("at first")
	run(t, global(dir, "upload_expiry 1h")+site)
	check("after a reload")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	run(t, global(dir, "")+site)
	check("after a restart")
}

func TestFailedReloadLeavesTheServerAsItWas(t *testing.T) {
	port, dir := freePort(t), t.TempDir()
	site := fmt.Sprintf("http://127.0.0.1:%d {\n\tregistry\n}\n", port)
	run(t, global(dir, "")+site)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := caddy.Load(adapt(t, global(filepath.Join(file, "below"), "")+site), true)
	if err == nil || !strings.Contains(err.Error(), "storage: filesystem "+file) {
		t.Errorf("a directory that cannot be made: %v", err)
	}
	if status, _ := get(t, fmt.Sprintf("http://127.0.0.1:%d/v2/", port)); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}

func TestValidationOpensNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "storage")
	var config caddy.Config
	if err := json.Unmarshal(adapt(t, global(dir, "")+"http://127.0.0.1:1 {\n\tregistry\n}"), &config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&config); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s was made: %v", dir, err)
	}
}

func TestMissingPlaceholderIsRefusedWithItsOption(t *testing.T) {
	var config caddy.Config
	if err := json.Unmarshal(adapt(t, global("{env.NO_SUCH_VARIABLE}/x", "")+"http://127.0.0.1:1 {\n\tregistry\n}"), &config); err != nil {
		t.Fatal(err)
	}
	err := caddy.Validate(&config)
	if err == nil || !strings.Contains(err.Error(), "storage") || !strings.Contains(err.Error(), "env.NO_SUCH_VARIABLE") {
		t.Errorf("error %v", err)
	}
}

func TestEncodeLeavesContentAsItWasPushed(t *testing.T) {
	port := freePort(t)
	run(t, global(t.TempDir(), "")+fmt.Sprintf("http://127.0.0.1:%d {\n\tencode\n\tregistry\n}", port))
	base := fmt.Sprintf("http://127.0.0.1:%d/v2/a/b", port)
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"a":"` + strings.Repeat("a", 4096) + `"}}`
	req, err := http.NewRequest(http.MethodPut, base+"/manifests/v1", strings.NewReader(manifest))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	req, err = http.NewRequest(http.MethodGet, base+"/manifests/v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "zstd, gzip")
	if resp, err = http.DefaultTransport.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != manifest || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%v, Content-Encoding %q, %d bytes, want %d", err, resp.Header.Get("Content-Encoding"), len(body), len(manifest))
	}
}
