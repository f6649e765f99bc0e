//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// TestMigrate moves a registry from files and SQLite to S3 and PostgreSQL while clients push
// to it: the server is killed while it does, the command is interrupted, and the third one
// goes on. Then it is moved back, while clients push to two servers of it.
func TestMigrate(t *testing.T) {
	db, objects, up := newPostgres(t), newS3(t), upstreamtest.Start(t)
	db.start()
	objects.start()
	bucket := objects.newBucket(t)
	files := cacheCaddyfile(cached("docker.io", up.URL()))
	if !strings.Contains(files, "storage filesystem {$STORAGE}") {
		t.Fatalf("there is no storage in\n%s", files)
	}
	elsewhere := strings.Replace(files, "storage filesystem {$STORAGE}", objects.options(bucket, "on")+"\n\t\tdatabase postgres {$DATABASE}", 1)
	m := &moving{t: t, load: &load{t: t, stop: make(chan struct{})}, env: []string{"DATABASE=" + db.newDatabase(t)}}
	old := m.newServer(files)
	old.start()
	m.image = up.AddImage("library/cached", "v1", upstreamtest.Bytes(1, 1<<20))
	mustPull(t, old.client(), "docker.io/library/cached", "v1", m.image)
	random := randomSource(t)
	for i := range 150 {
		blob := noise(random, 1<<20)
		mustPush(t, old.client(), "team/large", fmt.Sprint("v", i), blob)
	}
	up.Down()
	to := m.newServer(elsewhere)

	// The server is killed in the middle.
	var command sync.WaitGroup
	command.Go(func() {
		if stdout, stderr, code := m.migrate(old, to).wait(); code == 0 {
			t.Errorf("the move succeeded without a server: %s%s", stdout, stderr)
		}
	})
	arrived := func(n int) func() error {
		return func() error { return atLeast(len(objects.names(t, bucket, "registry/blobs/")), n) }
	}
	eventually(t, "some blobs have arrived", arrived(20))
	old.kill()
	command.Wait()
	old.start()
	mustPush(t, old.client(), "team/after", "kill", []byte("pushed after the kill"))

	// The command is interrupted in the middle.
	before := len(objects.names(t, bucket, "registry/blobs/"))
	interrupted := m.migrate(old, to)
	eventually(t, "some more blobs have arrived", arrived(before+10))
	_ = interrupted.cmd.Process.Signal(os.Interrupt)
	if stdout, stderr, code := interrupted.wait(); code == 0 || !strings.Contains(stderr, "goes on with it") {
		t.Errorf("the interrupted move ended with %d: %s%s", code, stdout, stderr)
	}
	eventually(t, "the server takes pushes again", func() error {
		a, err := pushBlob(old.client(), "team/after", "single POST", []byte("pushed after the interrupt"))
		if err == nil && a.status != http.StatusCreated {
			err = fmt.Errorf("%v", a)
		}
		return err
	})

	m.move(to, old)
	m.checkMoved(to)

	other := m.newServer(elsewhere)
	other.start()
	back := m.newServer(files)
	m.load.stop = make(chan struct{})
	m.move(back, to, other)
	m.checkMoved(back)
	if stdout, stderr, code := m.migrate(back, to).wait(); code == 0 || !strings.Contains(stderr, "not empty") {
		t.Errorf("moved over what there is, %d: %s%s", code, stdout, stderr)
	}
}

// moving is a registry on its way from one server to another.
type moving struct {
	t     *testing.T
	load  *load
	env   []string
	image upstreamtest.Image // that was cached
}

func (m *moving) newServer(config string) *process {
	p := newProcess(m.t, config)
	p.env = append(m.env, "STORAGE="+p.storage)
	p.port = "5050" // for commands, until it is started
	return p
}

// migration is a command that runs.
type migration struct {
	cmd         *exec.Cmd
	out, errOut strings.Builder
}

func (m *moving) migrate(from, to *process) *migration {
	m.t.Helper()
	target := filepath.Join(from.dir, "target.Caddyfile")
	content, err := os.ReadFile(to.config())
	if err == nil {
		// What is told by the environment of the other server the command has no way to know.
		err = os.WriteFile(target, []byte(strings.ReplaceAll(string(content), "{$STORAGE}", to.storage)), 0o600)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	c := &migration{cmd: from.command("registry", "migrate", "--from", from.config(), "--to", target)}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.errOut
	if err := c.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (c *migration) wait() (stdout, stderr string, code int) {
	_ = c.cmd.Wait() // whoever waits looks at the exit code
	return c.out.String(), c.errOut.String(), c.cmd.ProcessState.ExitCode()
}

// move moves everything while clients push to all servers that have it, and ends those.
func (m *moving) move(to *process, from ...*process) {
	m.t.Helper()
	for i := range 3 {
		server := from[i%len(from)]
		m.load.each(func(random *rand.Rand, round int) {
			m.load.push(server.client(), fmt.Sprint("load/", filepath.Base(server.dir), i), round, random)
		})
	}
	eventually(m.t, "pushes are acknowledged", m.load.more(20))
	stdout, stderr, code := m.migrate(from[0], to).wait()
	if code != 0 || !strings.Contains(stdout, "moved ") {
		m.t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	m.t.Log(strings.TrimSpace(stdout))
	close(m.load.stop)
	m.load.clients.Wait()
	refuses := func(server *process) {
		m.t.Helper()
		m.check(server)
		a := expect(m.t, http.StatusServiceUnavailable)(pushBlob(server.client(), "team/late", "single POST", []byte("too late")))
		if a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "is being moved") {
			m.t.Errorf("a late push is answered %v", a)
		}
	}
	for _, server := range from {
		refuses(server)
		server.stop()
	}
	from[0].start() // as whoever forgets which one is to be started
	refuses(from[0])
	from[0].stop()
	to.start()
}

// check reads all that was acknowledged.
func (m *moving) check(p *process) {
	m.t.Helper()
	send := p.client()
	for _, pushed := range m.load.loaded {
		for path, content := range pushed.paths() {
			mustRead(m.t, send, path, content)
		}
	}
	mustPull(m.t, send, "docker.io/library/cached", "v1", m.image)
}

func (m *moving) checkMoved(p *process) {
	m.t.Helper()
	m.check(p)
	if stdout, stderr, code := p.registry("verify"); code != 0 {
		m.t.Errorf("verify: %s%s", stdout, stderr)
	}
	mustPush(m.t, p.client(), "team/large", "new", []byte("pushed after the move to "+p.dir))
	for repository, tag := range map[string]string{"team/after": "kill", "team/large": "v149"} {
		expect(m.t, http.StatusOK)(p.client()(http.MethodGet, "/v2/"+repository+"/manifests/"+tag, nil, nil))
	}
}
