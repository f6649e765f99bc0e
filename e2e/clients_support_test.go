//go:build e2e

// Package e2e runs real clients against the real server. setup.sh installs them.
package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// caddyBinary is cmd/caddy of this module, built anew for every run.
var caddyBinary string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "caddy-registry-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if caddyBinary = os.Getenv(aloneCaddy); caddyBinary != "" {
		return m.Run()
	}
	caddyBinary = filepath.Join(dir, "caddy")
	if err := goBuild(caddyBinary, "./cmd/caddy"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// goBuild builds a package of this module as a static binary.
func goBuild(binary, pkg string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", binary, pkg)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build, err, output)
	}
	return nil
}

// moduleRoot returns the folder of go.mod, in or above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod in or above the working directory")
		}
		dir = parent
	}
}

// registry is a running server with empty storage of its own.
type registry struct {
	t    *testing.T
	addr string // "127.0.0.1:port"

	server *daemon
}

// startRegistry starts a server that stops with the test, with directives in its site
// besides the registry's own. The test fails if the server logged an error, as it does
// for each answer of 500 and above.
func startRegistry(t *testing.T, directives ...string) *registry {
	t.Helper()
	h := newHome(t)
	r := &registry{t: t, addr: freeAddr(t)}
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	config := h.write("Caddyfile", fmt.Sprintf(`{
	admin off
	persist_config off
	registry {
		storage filesystem %s
	}
}

http://%s:%s {
	bind %s
	log
	%s
	registry
}
`, h.path("registry"), host, port, host, strings.Join(directives, "\n")))
	d := h.start(caddyBinary, "run", "--config", config, "--adapter", "caddyfile")
	r.server = d
	d.onStop = func() { reportErrors(t, d.log) }
	d.waitUntil(func() error {
		response, err := http.Get("http://" + r.addr + "/v2/")
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("GET /v2/: %s", response.Status)
		}
		return nil
	})
	return r
}

// waitUntilLogged returns when the access log, which has a request once it is over, has text.
func (r *registry) waitUntilLogged(text string) {
	r.t.Helper()
	r.server.waitUntil(func() error {
		log, err := os.ReadFile(r.server.log)
		if err == nil && !bytes.Contains(log, []byte(text)) {
			return fmt.Errorf("%s is not in its log", text)
		}
		return err
	})
}

// freeAddr returns a loopback address at which nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	return "127.0.0.1:" + unusedPort(t)
}

// reportErrors fails the test for each error, or panic, in a server's log.
func reportErrors(t *testing.T, log string) {
	content, err := os.ReadFile(log)
	if err != nil {
		t.Error(err)
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		var entry struct{ Level string }
		if json.Unmarshal([]byte(line), &entry) != nil {
			if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
				t.Errorf("the server died: %s", line)
			}
			continue
		}
		switch entry.Level {
		case "error", "panic", "fatal":
			t.Errorf("the server logged: %s", line)
		}
	}
	if err := lines.Err(); err != nil {
		t.Error(err)
	}
}

// in returns the same server for a part of the test.
func (r *registry) in(t *testing.T) *registry { return &registry{t: t, addr: r.addr, server: r.server} }

// name returns what clients call a repository, tag or manifest here, as in "a/b:tag".
func (r *registry) name(rest string) string { return r.addr + "/" + rest }

// get returns a successful answer, byte for byte.
func (r *registry) get(path string, accept ...string) (http.Header, []byte) {
	r.t.Helper()
	status, header, body := r.do(http.MethodGet, path, accept...)
	if status != http.StatusOK {
		r.t.Fatalf("GET %s: %d %s", path, status, body)
	}
	return header, body
}

func (r *registry) do(method, path string, accept ...string) (int, http.Header, []byte) {
	r.t.Helper()
	request, err := http.NewRequest(method, "http://"+r.addr+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header["Accept"] = accept
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return response.StatusCode, response.Header, body
}

// digest returns the digest that a reference resolves to.
func (r *registry) digest(repository, reference string) digest.Digest {
	r.t.Helper()
	header, body := r.get("/v2/" + repository + "/manifests/" + reference)
	d := digest.FromBytes(body)
	if told := header.Get("Docker-Content-Digest"); told != d.String() {
		r.t.Fatalf("%s:%s: the manifest has digest %s but the registry says %s", repository, reference, d, told)
	}
	return d
}

// image returns all that a reference leads to, as the registry serves it. It fails
// the test for content that is not what its descriptor says.
func (r *registry) image(repository, reference string) *image {
	r.t.Helper()
	header, body := r.get("/v2/" + repository + "/manifests/" + reference)
	i := &image{
		Descriptor: imagespec.Descriptor{
			MediaType: header.Get("Content-Type"),
			Digest:    r.digest(repository, reference),
			Size:      int64(len(body)),
		},
		blobs: make(map[digest.Digest][]byte),
	}
	i.add(r.t, i.Descriptor, func(descriptor imagespec.Descriptor) []byte {
		kind := "blobs"
		if isManifest(descriptor) {
			kind = "manifests"
		}
		header, content := r.get("/v2/" + repository + "/" + kind + "/" + descriptor.Digest.String())
		if got := header.Get("Content-Type"); isManifest(descriptor) && got != descriptor.MediaType {
			r.t.Errorf("%s@%s is served as %s, not %s", repository, descriptor.Digest, got, descriptor.MediaType)
		}
		return content
	})
	return i
}

// referrers returns the descriptors of what refers to a manifest.
func (r *registry) referrers(repository string, subject digest.Digest) []imagespec.Descriptor {
	r.t.Helper()
	_, body := r.get("/v2/" + repository + "/referrers/" + subject.String())
	var index imagespec.Index
	if err := json.Unmarshal(body, &index); err != nil {
		r.t.Fatal(err)
	}
	return index.Manifests
}
