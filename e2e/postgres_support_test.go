//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
)

// postgresServer is a running PostgreSQL.
type postgresServer struct {
	*home
	bin  string // the folder of its programs
	port string
	cmd  *exec.Cmd
	made atomic.Int64 // databases
}

// newPostgres returns a server with nothing in it, not started yet, that keeps its data in
// a folder.
func newPostgres(t *testing.T) *postgresServer {
	t.Helper()
	needRoot(t)
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		lacks(t, "PostgreSQL is not installed")
	}
	p := &postgresServer{home: newHome(t), bin: found[len(found)-1], port: lastingPort(t)}
	// It refuses to be root.
	if err := os.Chmod(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(p.mkdir("data"), p.owner().uid, p.owner().gid); err != nil {
		t.Fatal(err)
	}
	if output, err := p.command("initdb", "--pgdata", p.path("data"), "--auth=trust", "--username=postgres", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, output)
	}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.stop()
		}
	})
	return p
}

type owner struct{ uid, gid int }

func (p *postgresServer) owner() owner {
	p.t.Helper()
	who, err := user.Lookup("postgres")
	if err != nil {
		p.t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	return owner{uid, gid}
}

func (p *postgresServer) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, program), args...)
	cmd.Dir = p.path("data")
	cmd.Env = p.env
	who := p.owner()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}}
	return cmd
}

// start starts the server and returns when it answers.
func (p *postgresServer) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = p.command("postgres", "-D", p.path("data"), "-c", "listen_addresses=127.0.0.1", "-c", "port="+p.port,
		"-c", "unix_socket_directories=", "-c", "max_connections=300")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, "PostgreSQL answers", func() error { return p.exec("SELECT 1") })
}

// stop ends the server as a fast shutdown does: those who are connected are cut off.
func (p *postgresServer) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	_ = p.cmd.Wait()
	p.cmd = nil
}

func (p *postgresServer) url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%s/%s", p.port, database)
}

func (p *postgresServer) exec(statement string) error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, p.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// newDatabase makes an empty database and returns its URL.
func (p *postgresServer) newDatabase(t testing.TB) string {
	t.Helper()
	name := "registry" + strconv.FormatInt(p.made.Add(1), 10)
	if err := p.exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil && !strings.Contains(err.Error(), "refused") {
			t.Error(err)
		}
	})
	return p.url(name)
}
