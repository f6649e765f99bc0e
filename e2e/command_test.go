//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestSecondServerOnStorageIsRefused: two servers on one storage would undo each other's
// work. The second says why it does not start, and the first does not notice.
func TestSecondServerOnStorageIsRefused(t *testing.T) {
	first := startProcess(t)
	send := first.client()
	manifest := mustPush(t, send, "some/image", "latest", []byte("blob"))

	second := newProcess(t, registryCaddyfile)
	second.storage = first.storage
	second.launch()
	if second.answers() {
		t.Fatal("the second server serves")
	}
	if code := second.cmd.ProcessState.ExitCode(); code <= 0 {
		t.Errorf("exit code of the second server is %d", code)
	}
	if log := second.log(); !strings.Contains(log, "storage is in use") || !strings.Contains(log, first.storage) {
		t.Errorf("the second server does not say which storage is in use: %s", second.logEnd())
	}

	mustRead(t, send, "/v2/some/image/manifests/latest", manifest)
	mustPush(t, send, "some/image", "newer", []byte("other blob"))
	if tags := first.stats()["tags"]; tags != 2 {
		t.Errorf("the command line finds %d tags through the first server, expected 2", tags)
	}
	first.kill()
	second.start()
	mustRead(t, second.client(), "/v2/some/image/manifests/latest", manifest)
}

// TestStatsAreTheSameUpAndDown: the command line asks the server that has the storage,
// or opens it itself.
func TestStatsAreTheSameUpAndDown(t *testing.T) {
	p := startProcess(t)
	send := p.client()
	mustPush(t, send, "some/image", "one", make([]byte, 1000))
	mustPush(t, send, "some/image", "two", make([]byte, 2000))
	mustPush(t, send, "other/image", "one", make([]byte, 2000)) // bytes that are there already
	expect(t, http.StatusAccepted)(send(http.MethodPost, "/v2/some/image/blobs/uploads/", nil, nil))

	wantJSON := map[string]int{"repositories": 2, "manifests": 3, "tags": 3, "blobs": 2, "blob_bytes": 3000, "uploads": 1}
	const want = "repositories 2\ntags 3\nmanifests 3\nblobs 2 2.9 KiB\nuploads under way 1\n"
	check := func(state string) {
		t.Helper()
		if got := p.stats(); fmt.Sprint(got) != fmt.Sprint(wantJSON) {
			t.Errorf("%s: stats --json is %v, expected %v", state, got, wantJSON)
		}
		stdout, stderr, code := p.registry("stats")
		if got := oneSpace(stdout); !strings.HasPrefix(got, want) || stderr != "" || code != 0 {
			t.Errorf("%s: stats is %q, %q, exit code %d, expected %q", state, got, stderr, code, want)
		}
	}
	check("up")
	p.stop()
	check("stopped")
	p.start()
	check("up again")
	p.kill()
	check("killed")
	p.start()
	check("up after a kill")
}

// oneSpace returns the lines of a table with one space between words.
func oneSpace(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// TestDeleteWorksUpAndDown deletes a tag, a manifest and a repository by the command
// line, which the server that is up serves no more at once.
func TestDeleteWorksUpAndDown(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprintf("up %v", up), func(t *testing.T) {
			p := startProcess(t)
			send := p.client()
			blob := []byte("blob")
			manifest := mustPush(t, send, "some/image", "one", blob)
			byDigest := digest.FromBytes(manifest).String()
			for _, tag := range []string{"two", "three"} {
				expect(t, http.StatusCreated)(pushManifest(send, "some/image", tag, manifest))
			}
			mustPush(t, send, "other/image", "one", blob)

			remove := func(what string) {
				t.Helper()
				if !up {
					p.stop()
				}
				stdout, stderr, code := p.registry("delete", what)
				if stdout != "" || stderr != "" || code != 0 {
					t.Errorf("delete %s: %q, %q, exit code %d", what, stdout, stderr, code)
				}
				if !up {
					p.start()
				}
			}
			status := func(path string, want int) {
				t.Helper()
				expect(t, want)(send(http.MethodGet, path, nil, nil))
			}

			remove("some/image:one")
			status("/v2/some/image/manifests/one", http.StatusNotFound)
			status("/v2/some/image/manifests/two", http.StatusOK)
			status("/v2/some/image/manifests/"+byDigest, http.StatusOK)

			remove("some/image@" + byDigest)
			status("/v2/some/image/manifests/two", http.StatusNotFound)
			status("/v2/some/image/manifests/three", http.StatusNotFound)
			status("/v2/some/image/manifests/"+byDigest, http.StatusNotFound)
			status(blobPath("some/image", blob), http.StatusOK)

			remove("some/image")
			status(blobPath("some/image", blob), http.StatusNotFound)
			mustRead(t, send, "/v2/other/image/manifests/one", manifest)
			mustRead(t, send, blobPath("other/image", blob), blob)
		})
	}
}

// TestCommandsFailInOneLine: scripts and people can tell what went wrong, with the
// server up and down, and nothing is deleted by mistake.
func TestCommandsFailInOneLine(t *testing.T) {
	p := startProcess(t)
	mustPush(t, p.client(), "some/image", "latest", []byte("blob"))
	missing := digest.FromString("missing").String()
	check := func(t *testing.T) {
		for _, tt := range []struct{ args, message string }{
			{"delete no/image", "no/image"},
			{"delete some/image:old", "old"},
			{"delete some/image@" + missing, missing},
			{"delete some/image:", "some/image:"},
			{"delete some/image@", "some/image@"},
			{"delete Some/Image", "Some/Image"},
			{"delete some/image@sha256:short", "sha256:short"},
			{"delete some/image:-wrong", "-wrong"},
			{"delete", "arg"},
			{"delete some/image other/image", "arg"},
			{"stats more", "more"},
			{"stats --unknown", "--unknown"},
			{"stats --config nowhere/Caddyfile", "nowhere/Caddyfile"},
		} {
			stdout, stderr, code := p.registry(strings.Fields(tt.args)...)
			if lines := strings.Count(stderr, "\n"); lines != 1 || stdout != "" || code != 1 || !strings.Contains(stderr, tt.message) {
				t.Errorf("%s: exit code %d, output %q, error of %d lines %q, expected one line with %q",
					tt.args, code, stdout, lines, stderr, tt.message)
			}
		}
		if stats := p.stats(); stats["tags"] != 1 || stats["blobs"] != 1 {
			t.Errorf("after commands that failed there is %v", stats)
		}
	}
	t.Run("up", check)
	p.stop()
	t.Run("down", check)
}
