//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// grace is how long a daemon may take to answer or to end, on a slow machine too.
	grace = time.Minute
	// lastWords is what of a daemon's log a failed test prints.
	lastWords = 32 << 10
)

// home is a folder that is all a client sees of its user's, and the environment for that.
type home struct {
	t   *testing.T
	dir string
	env []string
}

// newHome makes a folder that is removed after the test, when nothing runs from it or
// is mounted in it any more. Its path is short, for the sockets in it.
func newHome(t *testing.T) *home {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	h := &home{t: t, dir: dir}
	t.Cleanup(h.remove)
	// Nothing is inherited: a user's settings are not to help, or to get in the way.
	h.env = []string{
		"PATH=" + toolPath(),
		"HOME=" + dir,
		"TMPDIR=" + h.mkdir("tmp"),
		"XDG_CONFIG_HOME=" + h.mkdir(".config"),
		"XDG_CACHE_HOME=" + h.mkdir(".cache"),
		"XDG_DATA_HOME=" + h.mkdir(".local/share"),
		"XDG_STATE_HOME=" + h.mkdir(".local/state"),
		"XDG_RUNTIME_DIR=" + h.mkdir("run"),
		"DOCKER_CONFIG=" + h.mkdir(".docker"),
		"REGISTRY_AUTH_FILE=" + h.write(".docker/config.json", "{}"),
	}
	return h
}

// in returns the same folder for a part of the test.
func (h *home) in(t *testing.T) *home { return &home{t: t, dir: h.dir, env: h.env} }

// path returns where a file of the folder is.
func (h *home) path(name string) string { return filepath.Join(h.dir, name) }

func (h *home) mkdir(name string) string {
	h.t.Helper()
	if err := os.MkdirAll(h.path(name), 0o700); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

// write makes a file and returns its path.
func (h *home) write(name, content string) string {
	h.t.Helper()
	h.mkdir(filepath.Dir(name))
	if err := os.WriteFile(h.path(name), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

func (h *home) read(name string) []byte {
	h.t.Helper()
	content, err := os.ReadFile(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return content
}

// run runs a client in the folder and returns what it printed, without the last newline.
// The test is over if the client fails.
func (h *home) run(binary string, args ...string) string {
	h.t.Helper()
	stdout, stderr, err := h.try(binary, args...)
	if err != nil {
		h.t.Fatalf("%s %s: %v\n%s%s", filepath.Base(binary), strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// mustFail runs a client that has to complain of something.
func (h *home) mustFail(complaint, binary string, args ...string) {
	h.t.Helper()
	stdout, stderr, err := h.try(binary, args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !exit.Exited() || !strings.Contains(stderr, complaint) {
		h.t.Fatalf("%s %s: %v, want it to fail with %q\n%s%s", filepath.Base(binary), strings.Join(args, " "), err, complaint, stdout, stderr)
	}
}

func (h *home) try(binary string, args ...string) (stdout, stderr string, err error) {
	// Before the test binary would panic for its time being over, so that daemons are stopped.
	ctx := context.Background()
	if deadline, ok := h.t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-grace))
		defer cancel()
	}
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir, cmd.Env = h.dir, h.env
	cmd.Stdout, cmd.Stderr = &out, &complaint
	// Of what a client leaves running, nothing is to hold the pipes open.
	cmd.WaitDelay = grace
	err = cmd.Run()
	return strings.TrimSuffix(out.String(), "\n"), complaint.String(), err
}

// daemon is a process that stops with the test.
type daemon struct {
	t      *testing.T
	name   string
	log    string // its output
	exited chan struct{}
	onStop func() // once it has
}

// start runs a daemon in the folder. Its output is printed if the test fails.
func (h *home) start(binary string, args ...string) *daemon {
	h.t.Helper()
	d := &daemon{t: h.t, name: filepath.Base(binary), exited: make(chan struct{})}
	log, err := os.CreateTemp(h.dir, d.name+"*.log")
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	d.log = log.Name()
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = h.dir, h.env
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // many daemons exit with an error when they are told to
		close(d.exited)
	}()
	h.t.Cleanup(func() { d.stop(cmd.Process) })
	return d
}

func (d *daemon) stop(process *os.Process) {
	select {
	case <-d.exited:
		d.t.Errorf("%s stopped by itself", d.name)
	default:
		_ = process.Signal(syscall.SIGTERM)
	}
	select {
	case <-d.exited:
	case <-time.After(grace / 2):
		d.t.Errorf("%s did not stop when it was told to", d.name)
		_ = process.Kill()
		<-d.exited
	}
	if d.onStop != nil {
		d.onStop()
	}
	if !d.t.Failed() {
		return
	}
	content, err := os.ReadFile(d.log)
	if err != nil {
		d.t.Error(err)
	}
	d.t.Logf("the log of %s ends:\n%s", d.name, content[max(0, len(content)-lastWords):])
}

// waitUntil returns when ready does so without an error.
func (d *daemon) waitUntil(ready func() error) {
	d.t.Helper()
	deadline := time.Now().Add(grace)
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-d.exited:
			d.t.Fatalf("%s stopped before it was ready: %v", d.name, err)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s is not ready: %v", d.name, err)
		}
	}
}

// remove removes the folder, after what a daemon left mounted in it. A process that was
// started here and still runs fails the test, and is killed.
func (h *home) remove() {
	for pid, command := range h.strays() {
		h.t.Errorf("left running: %s", command)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, target := range mountsBelow(h.t, h.dir) {
		if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
			h.t.Errorf("unmount %s: %v", target, err)
		}
	}
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Error(err)
	}
}

// strays returns the commands of processes, by id, that have the folder in the
// environment which they were started with. Those about to end are given time for it.
func (h *home) strays() map[int]string {
	deadline := time.Now().Add(grace / 6)
	for {
		found := make(map[int]string)
		files, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, file := range files {
			environment, err := os.ReadFile(file)
			if err != nil || !bytes.Contains(environment, []byte("="+h.dir+"/")) {
				continue
			}
			command, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
			if err != nil || len(command) == 0 {
				continue // it has ended
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err == nil {
				found[pid] = strings.ReplaceAll(string(command), "\x00", " ")
			}
		}
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// mountsBelow returns what is mounted in a folder, the innermost first.
func mountsBelow(t *testing.T, dir string) []string {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	var targets []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			targets = append([]string{fields[4]}, targets...)
		}
	}
	return targets
}

// toolPath is the PATH of clients and daemons: what setup.sh built, then the system's.
func toolPath() string {
	return fmt.Sprintf("%s:%s:/usr/local/sbin:/usr/sbin:/sbin", toolDir(), os.Getenv("PATH"))
}

// toolDir is where setup.sh puts what it builds.
func toolDir() string {
	if dir := os.Getenv("E2E_TOOLS"); dir != "" {
		return filepath.Join(dir, "bin")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "/nonexistent"
	}
	return filepath.Join(cache, "caddy-registry-e2e", "bin")
}

// tool returns where a client is. On a developer's machine some may be missing.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range filepath.SplitList(toolPath()) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file
		}
	}
	lacks(t, name+" is not installed")
	return ""
}

// needRoot skips a test of what only root can do.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		lacks(t, "the user is not root")
	}
}

// lacks skips a test for what the machine lacks. In continuous integration nothing may be.
func lacks(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s, so this is not tested", what)
	}
	t.Skipf("%s: run e2e/setup.sh as root on Debian 12, then the tests", what)
}

// allowUnsigned lets skopeo, podman and buildah take any image, which is what Debian's
// own policy says too.
func (h *home) allowUnsigned() {
	h.write(".config/containers/policy.json", `{"default": [{"type": "insecureAcceptAnything"}]}`)
	h.env = append(h.env, "CONTAINERS_REGISTRIES_CONF="+h.write("registries.conf", ""))
}
