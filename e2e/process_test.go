//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// registryCaddyfile is a registry as it is usually served: with an access log and metrics.
const registryCaddyfile = `{
	metrics
	registry {
		storage filesystem {$STORAGE}
	}
}

http://:{$PORT} {
	bind 127.0.0.1
	log
	metrics /metrics
	registry
}
`

// patience is how long anything that should happen may take, on however slow a machine.
const patience = 2 * time.Minute

// process is a server as an operating system sees it: a program that is started, killed
// and started again on the same storage.
type process struct {
	t       *testing.T
	storage string
	prefix  []string // a command that runs the server, such as a tracer that becomes it
	env     []string // besides that of all

	dir    string // for all else that the server keeps or reads
	port   string
	admin  string
	cmd    *exec.Cmd
	exited chan struct{}
}

// newProcess returns a server that is not started yet, with its storage in a new folder.
func newProcess(t *testing.T, caddyfile string) *process {
	t.Helper()
	p := &process{t: t, dir: t.TempDir()}
	p.storage = filepath.Join(p.dir, "storage")
	if err := os.WriteFile(p.config(), []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.running() {
			p.kill()
		}
		if t.Failed() {
			t.Logf("end of the server's log:\n%s", p.logEnd())
		}
	})
	return p
}

// startProcess returns a registry that serves.
func startProcess(t *testing.T) *process {
	t.Helper()
	p := newProcess(t, registryCaddyfile)
	p.start()
	return p
}

func (p *process) config() string { return filepath.Join(p.dir, "Caddyfile") }

func (p *process) logFile() string { return filepath.Join(p.dir, "log") }

// command returns the server's program with the given arguments, in its environment.
func (p *process) command(args ...string) *exec.Cmd {
	args = append(append([]string{}, p.prefix...), append([]string{caddyBinary}, args...)...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(),
		"HOME="+p.dir,
		"XDG_DATA_HOME="+filepath.Join(p.dir, "data"),
		"XDG_CONFIG_HOME="+filepath.Join(p.dir, "config"),
		"STORAGE="+p.storage, "PORT="+p.port, "CADDY_ADMIN="+p.admin)
	cmd.Env = append(cmd.Env, p.env...)
	return cmd
}

// start runs the server until it answers. Each start has a port of its own: the one of
// before may have become the near end of somebody's connection.
func (p *process) start() {
	p.t.Helper()
	for {
		p.launch()
		if p.answers() {
			return
		}
		if end := p.logEnd(); !strings.Contains(end, "address already in use") {
			p.t.Fatalf("the server ended at its start:\n%s", end)
		}
	}
}

// launch begins to run the server.
func (p *process) launch() {
	p.t.Helper()
	p.port, p.admin = unusedPort(p.t), "127.0.0.1:"+unusedPort(p.t)
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = p.command("run", "--config", p.config())
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.exited = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // whoever waits for exited asks cmd.ProcessState
		close(p.exited)
	}()
}

// answers waits until the server answers, or has ended.
func (p *process) answers() bool {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answered := false
	p.eventually("the server answers", func() bool {
		if !p.running() {
			return true
		}
		resp, err := client.Get(p.url("/v2/"))
		if err != nil {
			return false
		}
		resp.Body.Close()
		answered = resp.StatusCode < http.StatusInternalServerError
		return answered
	})
	return answered
}

func (p *process) url(path string) string { return "http://127.0.0.1:" + p.port + path }

func (p *process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill ends the server as a crash does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.exited
}

// stop ends the server as a service manager does, and checks that it ends well.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	p.awaitExit()
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Fatalf("exit code %d after SIGTERM", code)
	}
}

func (p *process) awaitExit() {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.t.Fatal("the server does not end")
	}
}

// log returns what the server has written, over all its starts.
func (p *process) log() string {
	log, err := os.ReadFile(p.logFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Error(err)
	}
	return string(log)
}

// logEnd returns the last lines of the log, without those of the access log, for people.
func (p *process) logEnd() string {
	var lines []string
	for line := range strings.Lines(p.log()) {
		if !strings.Contains(line, `"handled request"`) {
			lines = append(lines, fmt.Sprintf("%.500s", strings.TrimSpace(line)))
		}
	}
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// registry runs a "caddy registry" command and returns what it wrote and its exit code.
func (p *process) registry(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	cmd := p.command(append([]string{"registry", "--config", p.config()}, args...)...) // args may have another
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// stats returns what "caddy registry stats --json" counts.
func (p *process) stats() map[string]int {
	p.t.Helper()
	stdout, stderr, code := p.registry("stats", "--json")
	if code != 0 {
		p.t.Fatalf("registry stats: exit code %d: %s", code, stderr)
	}
	var all map[string]any
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		p.t.Fatalf("registry stats --json: %v in %q", err, stdout)
	}
	stats := make(map[string]int)
	for _, name := range []string{"repositories", "manifests", "tags", "blobs", "blob_bytes", "uploads"} {
		n, ok := all[name].(float64)
		if !ok {
			p.t.Fatalf("registry stats --json has no %s: %q", name, stdout)
		}
		stats[name] = int(n)
	}
	return stats
}

// uploadFiles returns the names of the files that uploads take, with their sizes.
func (p *process) uploadFiles() map[string]int64 {
	p.t.Helper()
	entries, err := os.ReadDir(filepath.Join(p.storage, "uploads"))
	if err != nil {
		p.t.Fatal(err)
	}
	files := make(map[string]int64)
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // renamed meanwhile
		}
		if err != nil {
			p.t.Fatal(err)
		}
		files[entry.Name()] = info.Size()
	}
	return files
}

// eventually waits for a condition, however long a slow machine needs.
func (p *process) eventually(what string, condition func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			p.t.Fatalf("in vain waited until %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// needs skips a test that the machine cannot run. In continuous integration, which is
// set up for all of them, that is a failure.
func needs(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s: %v", what, err)
	}
	t.Skipf("needs %s: %v", what, err)
}

func unusedPort(t *testing.T) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if l.Close(); takePort(port) {
			return port
		}
	}
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) String() string {
	return fmt.Sprintf("%d %.300s", a.status, a.body)
}

// readAnswer reads a response to its end, without which it does not count as received.
func readAnswer(resp *http.Response) (answer, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body}, err
}
