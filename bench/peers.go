package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// The names of what is measured. respond is a site of the registry's own process, private
// is a repository of it, and with a key is what is asked for with an API key.
const (
	registry     = "registry"
	respond      = "respond"
	distribution = "distribution"
	nginx        = "nginx"
	bareCaddy    = "caddy"
	baseline     = "base"   // another build of the registry
	direct       = "direct" // the upstream of what caches
	private      = "private"
	withKey      = "with a key"
)

// peer is a server in a process of its own, with a folder of its own.
type peer struct {
	name    string
	dir     string
	address string
	respond string // the address of Caddy's respond, of the registry
	admin   string // the address of Caddy's admin API, of the registry; of the upstream's control
	prefix  string // of the names of cached repositories
	key     string // an API key of the registry, if there is one
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process is gone
}

// errMissing is what start returns for a peer that is not installed.
var errMissing = errors.New("is not installed")

// launches tells folders of peers apart.
var launches atomic.Int64

// start runs a peer in an empty folder and waits until it answers.
func (b *bench) start(ctx context.Context, name string) (*peer, error) {
	p := &peer{
		name: name,
		dir:  filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, launches.Add(1))),
		done: make(chan struct{}),
	}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	if err := p.run(ctx, b); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), p.stop())
	}
	return p, nil
}

// launchers tell how each peer is run: they write its configuration to its folder, set
// its address and return its command.
var launchers = map[string]func(b *bench, p *peer) (*exec.Cmd, error){
	registry:     launchCaddy,
	baseline:     launchCaddy,
	bareCaddy:    launchCaddy,
	distribution: launchDistribution,
	nginx:        launchNginx,
	direct:       launchUpstream,
}

func (p *peer) run(ctx context.Context, b *bench) error {
	cmd, err := launchers[p.name](b, p)
	if err != nil {
		return err
	}
	output, err := os.Create(filepath.Join(p.dir, "output"))
	if err != nil {
		return err
	}
	defer output.Close()
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, output, output
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd = cmd
	go func() {
		_ = cmd.Wait() // done tells what there is to know
		close(p.done)
	}()
	return p.wait(ctx)
}

// wait returns when the peer answers.
func (p *peer) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+"/v2/", nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err == nil {
			return resp.Body.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended at once: %s", p.output())
		case <-ctx.Done():
			return fmt.Errorf("it does not answer (%w): %s", context.Cause(ctx), p.output())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// output returns the end of what the peer has said.
func (p *peer) output() string {
	said, _ := os.ReadFile(filepath.Join(p.dir, "output"))
	return string(bytes.TrimSpace(said[max(0, len(said)-1000):]))
}

// stop ends the process, its children with it, and removes what is big in its folder.
func (p *peer) stop() error {
	if p.cmd != nil {
		children := family(p.cmd.Process.Pid)
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			for _, pid := range children {
				if process, err := os.FindProcess(pid); err == nil {
					_ = process.Kill() // or it has ended meanwhile
				}
			}
			<-p.done
		}
	}
	return removeBig(p.dir)
}

// removeBig removes the big files of a folder. The many small ones stay until the end:
// ext4 looks for inodes that were not used in the last seconds, so whoever makes files
// then would pay for what was removed before.
func removeBig(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > 1<<20 {
			err = os.Remove(path)
		}
		return err
	})
}

// stop ends a peer of which enough is known.
func (b *bench) stop(p *peer) {
	b.recordPeak(p)
	if err := p.stop(); err != nil {
		log.Print(err)
	}
}

// eachRound calls f for each peer in each round, so that whatever else the machine does
// meets all of them. The order turns (A B C, B C A, C A B): who comes after whom matters
// too, by what that one leaves in the page cache and to the disk. An error of the
// registry ends it; another peer that fails is noted and left out.
func (b *bench) eachRound(ctx context.Context, names []string, f func(name string, round int) error) error {
	names = slices.Clone(names)
	if b.base != "" {
		names = append(names, baseline)
	}
	failed := make(map[string]bool)
	for round := range b.Rounds {
		for i := range names {
			name := names[(i+round)%len(names)]
			if failed[name] {
				continue
			}
			err := f(name, round)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				continue
			}
			if name == registry {
				return err
			}
			b.results.note("%v", err)
			failed[name] = true
		}
	}
	return nil
}

// fresh calls f in each round with a peer that was started for it.
func (b *bench) fresh(ctx context.Context, names []string, f func(p *peer, round int) error) error {
	return b.eachRound(ctx, names, func(name string, round int) error {
		p, err := b.start(ctx, name)
		if err != nil {
			return err
		}
		defer b.stop(p)
		return p.explain(f(p, round))
	})
}

// kept calls f in each round with peers that run all the time. prepare gives each of
// them what it is asked for.
func (b *bench) kept(ctx context.Context, names []string, prepare func(p *peer) error, f func(p *peer, round int) error) error {
	peers := make(map[string]*peer)
	defer func() {
		for _, p := range peers {
			b.stop(p)
		}
	}()
	return b.eachRound(ctx, names, func(name string, round int) error {
		p := peers[name]
		if p == nil {
			started, err := b.start(ctx, name)
			if err != nil {
				return err
			}
			p = started
			peers[name] = p
			if err := prepare(p); err != nil {
				return p.explain(err)
			}
		}
		return p.explain(f(p, round))
	})
}

// explain adds to an error whose it is and what the peer has said.
func (p *peer) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w\n%s", p.name, err, p.output())
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// findTool returns where a program is: where the end-to-end tests keep their tools, or
// in PATH.
func findTool(name string) (string, error) {
	tools := os.Getenv("E2E_TOOLS")
	if tools == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		tools = filepath.Join(cache, "caddy-registry-e2e")
	}
	for _, file := range []string{filepath.Join(tools, "bin", name), name, filepath.Join("/usr/sbin", name)} {
		if path, err := exec.LookPath(file); err == nil {
			return path, nil
		}
	}
	return "", errMissing
}

// environ is this process's without what would configure a peer.
func environ(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "REGISTRY_") || strings.HasPrefix(variable, "OTEL_")
	})
	return append(env, more...)
}
