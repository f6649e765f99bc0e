package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// guarded is a site with access control, and another of the same server without any, by
// which a test prepares content and looks at it.
type guarded struct {
	site
	open site
	// beside are directives beside registry_auth and registry.
	beside string
	// proxies are the networks that are believed what they say of clients.
	proxies string
	// sparse is that option of the registry.
	sparse string
	// more are other sites.
	more    string
	folder  string // of storage, Caddy's storage, the log and the Caddyfile
	options string // of registry_auth
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	return &guarded{site: newSite(t), open: newSite(t), beside: "registry_ui", folder: t.TempDir()}
}

// runGuarded runs a server with a site that has options of registry_auth.
func runGuarded(t *testing.T, options string) *guarded {
	t.Helper()
	g := newGuarded(t)
	g.run(options)
	return g
}

// run runs the server, or reloads it with other options.
func (g *guarded) run(options string) {
	g.t.Helper()
	g.options = options
	if err := os.WriteFile(g.file(), []byte(g.config()), 0o600); err != nil {
		g.t.Fatal(err)
	}
	run(g.t, g.config())
	http.DefaultClient.CloseIdleConnections()
}

func (g *guarded) config() string {
	servers := ""
	if g.proxies != "" {
		servers = "servers {\n\t\ttrusted_proxies static " + g.proxies + "\n\t}"
	}
	return fmt.Sprintf(`{
	admin off
	grace_period 10s
	metrics
	storage file_system %s
	log {
		output file %s
		format json
	}
	%s
	registry {
		storage filesystem %s
		%s
	}
}
`, g.path("caddy"), g.path("log"), servers, g.path("registry"), g.sparse) +
		g.caddyfile("registry_auth {\n"+g.options+"\n}\n"+g.beside+"\nregistry") + g.open.caddyfile("registry") + g.more
}

func (g *guarded) path(name string) string { return filepath.Join(g.folder, name) }
func (g *guarded) file() string            { return g.path("Caddyfile") }

// logText returns all that was logged.
func (g *guarded) logText() string {
	g.t.Helper()
	content, err := os.ReadFile(g.path("log"))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(content)
}

// log returns the lines of the log that are of a logger and a message.
func (g *guarded) log(logger, message string) []map[string]any {
	g.t.Helper()
	var lines []map[string]any
	for text := range strings.Lines(g.logText()) {
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			g.t.Fatalf("%v in the log: %s", err, text)
		}
		if line["logger"] == logger && line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}

// command runs `caddy registry` in this process, and returns what it prints.
func (g *guarded) command(args ...string) (string, error) {
	g.t.Helper()
	return command(g.t, append(args, "--config", g.file())...)
}

func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := &cobra.Command{Use: "registry", SilenceErrors: true}
	caddycmd.Commands()["registry"].CobraFunc(cmd)
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// key makes an API key as people do on the command line.
func (g *guarded) key(user string, options ...string) string {
	g.t.Helper()
	out, err := g.command(append([]string{"apikey", "create", "--user", user}, options...)...)
	if err != nil {
		g.t.Fatalf("a key of %s: %v", user, err)
	}
	return strings.TrimSpace(out)
}

// groups are the options of a key of somebody in groups.
func groups(names ...string) []string {
	var options []string
	for _, name := range names {
		options = append(options, "--group", name)
	}
	return options
}

// What clients send to prove who they are.

func bearer(text string) http.Header { return http.Header{"Authorization": {"Bearer " + text}} }

func basic(user, password string) http.Header {
	req := http.Request{Header: make(http.Header)}
	req.SetBasicAuth(user, password)
	return req.Header
}

func cookie(name, value string) http.Header { return http.Header{"Cookie": {name + "=" + value}} }

// with returns a header with one more field.
func with(header http.Header, name, value string) http.Header {
	header = maps.Clone(header)
	if header == nil {
		header = make(http.Header)
	}
	header.Set(name, value)
	return header
}

// direct is a client that follows no redirects.
var direct = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// send sends a request with a header, once more if a server that is being replaced took
// the connection.
func (s site) send(header http.Header, method, path string, body ...byte) answer {
	s.t.Helper()
	a, err := s.trySend(header, method, path, body)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		a, err = s.trySend(header, method, path, body)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// trySend may be called by goroutines, and fails nothing.
func (s site) trySend(header http.Header, method, path string, body []byte) (answer, error) {
	req, err := http.NewRequest(method, s.url()+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	maps.Copy(req.Header, header)
	if method == http.MethodPut && strings.Contains(path, "/manifests/") {
		req.Header.Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := direct.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(content)}, err
}

// post sends a form.
func (s site) post(header http.Header, path string, form url.Values) answer {
	s.t.Helper()
	return s.send(with(header, "Content-Type", "application/x-www-form-urlencoded"), http.MethodPost, path, []byte(form.Encode())...)
}

// token fetches a token as Docker's clients do.
func (s site) token(header http.Header, scopes ...string) string {
	s.t.Helper()
	a := s.send(header, http.MethodGet, "/auth/token?"+url.Values{"service": {s.host}, "scope": scopes}.Encode())
	var body struct{ Token string }
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || a.status != http.StatusOK || body.Token == "" {
		s.t.Fatalf("a token: %d %s", a.status, a.body)
	}
	return body.Token
}

// message returns the message of the first error of an answer.
func (a answer) message() string {
	var body struct {
		Errors []struct{ Message string }
	}
	if json.Unmarshal([]byte(a.body), &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Message
}

// cookieOf returns the cookie that an answer sets, nil if it sets none of the name.
func (a answer) cookieOf(name string) *http.Cookie {
	resp := http.Response{Header: a.header}
	for _, cookie := range resp.Cookies() {
		if cookie.Name == name {
			return cookie
		}
	}
	return nil
}

// index returns a manifest that names nothing, and is not another one's.
func index(mark string) []byte {
	return []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"mark":"` + mark + `"}}`)
}

// putIndex pushes such a manifest on a site without access control.
func (s site) putIndex(name, tag, mark string) digest.Digest {
	s.t.Helper()
	content := index(mark)
	if a := s.send(nil, http.MethodPut, "/v2/"+name+"/manifests/"+tag, content...); a.status != http.StatusCreated {
		s.t.Fatalf("%s:%s: %d %s", name, tag, a.status, a.body)
	}
	return digest.FromBytes(content)
}

// putBlob pushes a blob there.
func (s site) putBlob(name, content string) digest.Digest {
	s.t.Helper()
	d := digest.FromString(content)
	if a := s.send(nil, http.MethodPost, "/v2/"+name+"/blobs/uploads/?digest="+d.String(), []byte(content)...); a.status != http.StatusCreated {
		s.t.Fatalf("a blob of %s: %d %s", name, a.status, a.body)
	}
	return d
}

// startUpload begins an upload there and returns its path.
func (s site) startUpload(name string) string {
	s.t.Helper()
	a := s.send(nil, http.MethodPost, "/v2/"+name+"/blobs/uploads/")
	if a.status != http.StatusAccepted {
		s.t.Fatalf("an upload of %s: %d %s", name, a.status, a.body)
	}
	return a.header.Get("Location")
}

// await returns when something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
