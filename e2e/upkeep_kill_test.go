//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// upkeepCaddyfile is a registry in which what is garbage is collected at once.
const upkeepCaddyfile = `{
	registry {
		storage filesystem {$STORAGE}
		gc {
			delay 1s
			untagged 1s
		}
	}
}

http://:{$PORT} {
	bind 127.0.0.1
	log
	registry
}
`

// kept is what must be there whatever was killed.
type kept struct {
	tag      string
	blob     []byte
	manifest []byte
}

// pushKept pushes images of which all must stay, and some garbage besides.
func pushKept(t *testing.T, p *process, n int) []kept {
	t.Helper()
	random := randomSource(t)
	send := p.client()
	var all []kept
	for i := range n {
		blob := noise(random, 200_000)
		tag := fmt.Sprint("v", i)
		mustPush(t, send, "team/app", tag, noise(random, 100_000)) // is overwritten, and garbage
		all = append(all, kept{tag, blob, mustPush(t, send, "team/app", tag, blob)})
	}
	return all
}

func wantKept(t *testing.T, p *process, all []kept) {
	t.Helper()
	send := p.client()
	for _, k := range all {
		mustRead(t, send, "/v2/team/app/manifests/"+k.tag, k.manifest)
		mustRead(t, send, blobPath("team/app", k.blob), k.blob)
	}
}

// killAgainAndAgain runs a command and kills it, each time a little later, until it gets
// to its end before that, or isDone, if it is not nil, says that it did all the same.
func killAgainAndAgain(t *testing.T, command func() *exec.Cmd, isDone func() bool) {
	t.Helper()
	kills := 0
	for wait := 10 * time.Millisecond; ; wait += 4 * time.Millisecond {
		cmd := command()
		var output strings.Builder
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("%v after %d kills: %v\n%s", cmd.Args, kills, err, output.String())
			}
			t.Logf("%v: %d kills", cmd.Args[1:3], kills)
			if kills == 0 {
				t.Error("it was never killed, so nothing was tested")
			}
			return
		case <-time.After(wait):
			_ = cmd.Process.Kill() // or it has ended meanwhile
			<-done
			kills++
			if isDone != nil && isDone() {
				t.Logf("%v: %d kills, the last one after all was done", cmd.Args[1:3], kills)
				return
			}
		}
	}
}

// TestKilledCommandsLoseNothing kills each command that changes what is stored, at all
// stages, with the server down. What is kept is there, and the next run completes.
func TestKilledCommandsLoseNothing(t *testing.T) {
	p := newProcess(t, upkeepCaddyfile)
	p.start()
	all := pushKept(t, p, 20)
	p.stop()
	registry := func(args ...string) func() *exec.Cmd {
		return func() *exec.Cmd { return p.command(append([]string{"registry"}, args...)...) }
	}
	time.Sleep(2 * time.Second) // what is garbage is so for longer than the delay
	killAgainAndAgain(t, registry("gc"), nil)
	time.Sleep(2 * time.Second)
	killAgainAndAgain(t, registry("gc"), nil)
	if stats := p.stats(); stats["manifests"] != len(all) || stats["blobs"] != len(all) {
		t.Errorf("collected down to %v, want %d images", stats, len(all))
	}
	p.start()
	wantKept(t, p, all)
	p.stop()

	folder := filepath.Join(p.dir, "backup")
	killAgainAndAgain(t, registry("backup", folder), nil)
	killAgainAndAgain(t, registry("verify"), nil)
	export := filepath.Join(p.dir, "export")
	killAgainAndAgain(t, registry("export", "team/app", "--to", export), nil)

	restored := newProcess(t, upkeepCaddyfile)
	killAgainAndAgain(t, func() *exec.Cmd { return restored.command("registry", "restore", folder) }, func() bool {
		tags := restored.stats()["tags"]
		if tags != 0 && tags != len(all) {
			t.Fatalf("half of it was restored: %d tags", tags)
		}
		return tags == len(all)
	})
	restored.start()
	wantKept(t, restored, all)
	restored.stop()

	imported := newProcess(t, upkeepCaddyfile)
	killAgainAndAgain(t, func() *exec.Cmd {
		return imported.command("registry", "import", export, "--prefix", "team/app", "--link")
	}, nil)
	imported.start()
	wantKept(t, imported, all)
	imported.stop()
	if _, stderr, code := imported.registry("verify"); code != 0 {
		t.Errorf("verify after all that: %d, %s", code, stderr)
	}
}

// TestAFlippedBitIsFoundAndNeverServed spoils what was pushed under a running server.
func TestAFlippedBitIsFoundAndNeverServed(t *testing.T) {
	p := newProcess(t, upkeepCaddyfile)
	p.start()
	all := pushKept(t, p, 3)
	d := digest.FromBytes(all[0].blob)
	file := filepath.Join(p.storage, "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[1234] ^= 4
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := p.registry("verify")
	if code != 1 || !strings.Contains(stdout, d.String()) || !strings.Contains(stdout, "team/app") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("verify: %d, %q, %q", code, stdout, stderr)
	}
	send := p.client()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		expect(t, http.StatusNotFound)(send(method, blobPath("team/app", all[0].blob), nil, nil))
	}
	wantKept(t, p, all[1:])
	mustPush(t, send, "team/app", all[0].tag, all[0].blob)
	wantKept(t, p, all)
	if stdout, stderr, code := p.registry("verify"); code != 0 {
		t.Errorf("verify once it was pushed again: %d, %q, %q", code, stdout, stderr)
	}
}
