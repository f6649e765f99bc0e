//go:build e2e

package e2e

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

//go:embed testdata/idp/provider.mjs
var idpProgram string

// idp is an identity provider. It can be stopped and started again, and then knows all
// that it knew.
type idp struct {
	*home
	node   string
	port   string
	origin string // of the registry

	cmd    *exec.Cmd
	exited chan struct{}
}

// newIDP returns a provider, not started yet, that sends people back to a registry.
func newIDP(t *testing.T, origin string) *idp {
	t.Helper()
	dir := filepath.Join(filepath.Dir(toolDir()), "idp")
	node := filepath.Join(dir, "node")
	if _, err := os.Stat(node); err != nil {
		lacks(t, "the identity provider is not installed")
	}
	p := &idp{home: newHome(t), node: node, port: lastingPort(t), origin: origin}
	p.write("provider.mjs", idpProgram)
	// A module's dependencies are looked for beside its file.
	if err := os.Symlink(filepath.Join(dir, "node_modules"), p.path("node_modules")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the log of the identity provider:\n%s", p.read("log"))
		}
	})
	return p
}

func (p *idp) url(path string) string { return "http://localhost:" + p.port + path }

func (p *idp) issuer() string { return p.url("/application/o/zot/") }

// start starts the provider and returns when it answers.
func (p *idp) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = exec.Command(p.node, "provider.mjs", p.port, "state.json", p.origin+callbackPath)
	p.cmd.Dir, p.cmd.Env = p.dir, p.env
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait() // it is killed
		close(exited)
	}(p.cmd, p.exited)
	eventually(p.t, "the identity provider answers", func() error {
		select {
		case <-p.exited:
			p.t.Fatalf("the identity provider ended at its start:\n%s", p.read("log"))
		default:
		}
		response, err := http.Get(p.issuer() + ".well-known/openid-configuration")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
}

// kill ends the provider as a crash does.
func (p *idp) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.exited
	p.cmd = nil
}

// change changes what the provider knows of somebody.
func (p *idp) change(user string, change map[string]any) {
	p.t.Helper()
	body := encode(p.t, map[string]any{user: change})
	response, err := http.Post(p.url("/test/users"), "application/json", bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		p.t.Fatalf("changing %s at the identity provider: %s", user, response.Status)
	}
}

// issued returns all codes and tokens that the provider has issued.
func (p *idp) issued() []string {
	content, err := os.ReadFile(p.path("state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var state struct{ Issued []string }
	if err := errors.Join(err, json.Unmarshal(content, &state)); err != nil {
		p.t.Error(err)
	}
	return state.Issued
}

// givenPorts are those that a test has, or had, for itself.
var givenPorts sync.Map

// takePort reports whether a port was given to nobody yet, and gives it.
func takePort(port string) bool {
	_, given := givenPorts.LoadOrStore(port, true)
	return !given
}

// lastingPort returns a port that can be listened on again after it was given up: no
// connection gets it as its near end.
func lastingPort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(10000))
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		if listener.Close(); takePort(port) {
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// eventually waits until something is without an error, however slow the machine is.
func eventually(t *testing.T, what string, ready func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := ready()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Errorf("in vain waited until %s: %w", what, err))
		}
		time.Sleep(50 * time.Millisecond)
	}
}
