//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

// cluster is examples/cluster: three nodes, a balancer, PostgreSQL and S3.
type cluster struct {
	t       *testing.T
	nodes   []*process
	front   *process
	db      *postgresServer
	objects *s3Server
	bucket  string
	up      *upstreamtest.Registry // plays docker.io
	key     string                 // of an admin
}

// startCluster starts all of it. change is what is other in the nodes' Caddyfile.
func startCluster(t *testing.T, change ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, db: newPostgres(t), objects: newS3(t), up: upstreamtest.Start(t)}
	c.db.start()
	c.objects.start()
	c.bucket = c.objects.newBucket(t)
	config := replaced(t, exampleFile(t, "cluster/Caddyfile"), append([]string{
		"{$NODE_ADDRESS:localhost:5051}", "127.0.0.1:{$PORT}",
		"{$REGISTRY_SPOOL:/var/lib/registry}", "{$STORAGE}",
		"\t\tupstream docker.io\n", "\t\tupstream docker.io {\n\t\t\turl " + c.up.URL() + "\n\t\t}\n",
	}, change...)...)
	env := []string{
		"REGISTRY_DATABASE_URL=" + c.db.newDatabase(t),
		"S3_BUCKET=" + c.bucket, "S3_ENDPOINT=" + c.objects.url(), "S3_KEY=" + s3Key, "S3_SECRET=" + s3Secret,
		"CADDY_SHARED=" + t.TempDir(),
	}
	var addresses []string
	for range 3 {
		p := newProcess(t, config)
		p.env = env
		p.start()
		c.nodes = append(c.nodes, p)
		addresses = append(addresses, "127.0.0.1:"+p.port)
	}
	balancer := replaced(t, exampleFile(t, "cluster/balancer.Caddyfile"), "{$BALANCER_ADDRESS:localhost:5050}", "127.0.0.1:{$PORT}",
		"health_interval 5s", "health_interval 200ms", "health_timeout 5s", "health_timeout 1s")
	c.front = newProcess(t, balancer)
	c.front.env = []string{"NODES=" + strings.Join(addresses, " ")}
	c.front.start()
	c.key = c.newKey("alice", "admins")
	return c
}

func (c *cluster) newKey(user, group string) string {
	c.t.Helper()
	stdout, stderr, code := c.nodes[0].registry("apikey", "create", "--user", user, "--group", group)
	if code != 0 {
		c.t.Fatalf("apikey create: %s%s", stdout, stderr)
	}
	return strings.TrimSpace(stdout)
}

// to returns a sender to a server, with the admin's key.
func (c *cluster) to(p *process) sender { return c.with(p, c.key) }

// with returns a sender to a server, with a key.
func (c *cluster) with(p *process, key string) sender {
	send := p.client()
	return func(method, path string, header http.Header, body []byte) (answer, error) {
		if header = header.Clone(); header == nil {
			header = http.Header{}
		}
		header.Set("Authorization", "Bearer "+key)
		return send(method, path, header, body)
	}
}

// freeze freezes a server, and returns what lets it go on.
func (p *process) freeze() (thaw func()) {
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	return func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }
}

// connectedTo returns the ports to which a server has connections on this machine.
func (p *process) connectedTo() map[string]bool {
	p.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	descriptors, err := os.ReadDir(proc + "fd")
	if err != nil {
		p.t.Fatal(err)
	}
	sockets := make(map[string]bool) // by inode
	for _, fd := range descriptors {
		// One that was closed meanwhile is none.
		if link, err := os.Readlink(proc + "fd/" + fd.Name()); err == nil {
			sockets[strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")] = true
		}
	}
	to := make(map[string]bool)
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		content, err := os.ReadFile(proc + table)
		if err != nil {
			p.t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			fields := strings.Fields(line) // 2 is the remote address, 9 the inode: proc(5)
			if len(fields) < 10 || !sockets[fields[9]] {
				continue
			}
			_, hex, _ := strings.Cut(fields[2], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err != nil {
				p.t.Fatal(err)
			}
			to[strconv.FormatUint(port, 10)] = true
		}
	}
	return to
}
