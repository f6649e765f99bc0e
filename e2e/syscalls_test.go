//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// writeCalls are the calls by which bytes get into files and connections.
const writeCalls = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendfile,splice,copy_file_range"

// TestPowerLossLosesNothingAcknowledged follows pushes through the system calls. A kill
// shows nothing of what a loss of power does: then only what was synced is left. So
// bytes must be synced before they get their name, the name before the facts that
// mention it are written, and the facts before the client reads 201.
func TestPowerLossLosesNothingAcknowledged(t *testing.T) {
	random := randomSource(t)
	p := newProcess(t, registryCaddyfile)
	p.storage = filepath.Join(p.dir, "new", "storage")
	trace := traced(t, p, "openat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,fsync,fdatasync,"+writeCalls)
	p.start()
	// What the server does by itself when it starts is done before the first push.
	p.eventually("garbage is collected", func() bool { return p.metric("registry_gc_runs_total") > 0 })
	w := &wire{address: "127.0.0.1:" + p.port}
	t.Cleanup(w.close)

	var pushed []push
	var blobs [][]byte
	for _, method := range pushMethods {
		blob := noise(random, 1<<20)
		expect(t, http.StatusCreated)(pushBlob(w.send, "some/image", method, blob))
		pushed = append(pushed, push{"blob by " + method, blob})
		blobs = append(blobs, blob)
	}
	expect(t, http.StatusCreated)(pushBlob(w.send, "other/image", "single POST", blobs[0]))
	pushed = append(pushed, push{"blob that another repository has", blobs[0]})
	mount := "/v2/third/image/blobs/uploads/?from=some/image&mount=" + digest.FromBytes(blobs[0]).String()
	expect(t, http.StatusCreated)(w.send(http.MethodPost, mount, nil, nil))
	pushed = append(pushed, push{"mount", nil})
	for _, version := range []string{"1", "2"} {
		manifest := imageOf(map[string]string{"version": version}, blobs...)
		expect(t, http.StatusCreated)(pushManifest(w.send, "some/image", "latest", manifest))
		pushed = append(pushed, push{"manifest " + version, nil})
	}
	expect(t, http.StatusAccepted)(w.send(http.MethodDelete, "/v2/some/image/manifests/latest", nil, nil))
	p.stop()

	calls := trace.read(t)
	answers := answersIn(calls)
	var created []int
	for i, answer := range answers {
		if strings.Contains(answer.line, "HTTP/1.1 201") {
			created = append(created, i)
		}
	}
	if len(created) != len(pushed) {
		t.Fatalf("the trace shows %d answers of 201, expected %d", len(created), len(pushed))
	}
	checkNames(t, calls, p.dir, pick(answers, created))
	for n, i := range created {
		t.Run(pushed[n].what, func(t *testing.T) {
			first := checkFacts(t, calls, p.storage, answers[i-1], answers[i])
			if pushed[n].blob != nil {
				checkBytes(t, calls, p.storage, pushed[n].blob, answers[i-1], first)
			}
		})
	}
	t.Run("delete", func(t *testing.T) {
		last := len(answers) - 1
		if !strings.Contains(answers[last].line, "HTTP/1.1 202") {
			t.Fatalf("the last answer is %s", answers[last].line)
		}
		checkFacts(t, calls, p.storage, answers[last-1], answers[last])
	})
}

// push is what was acknowledged with 201.
type push struct {
	what string
	blob []byte
}

// answersIn returns the calls that begin an answer.
func answersIn(calls []*tracedCall) []*tracedCall {
	return slices.DeleteFunc(slices.Clone(calls), func(c *tracedCall) bool {
		return !c.writes() || !strings.Contains(c.line, "<socket:") || !strings.Contains(c.line, `"HTTP/1.1 `)
	})
}

func (s *tracedCall) writes() bool { return slices.Contains(strings.Split(writeCalls, ","), s.name) }

func (s *tracedCall) syncs(root, path string) bool {
	return (s.name == "fsync" || s.name == "fdatasync") && s.result == 0 && s.pathUnder(root) == path
}

func (s *tracedCall) before(other *tracedCall) bool { return s.ended < other.began }

// checkFacts checks that all that was written to the database between two answers was
// synced before the second, and returns the first call that wrote.
func checkFacts(t *testing.T, calls []*tracedCall, storage string, previous, answer *tracedCall) (first *tracedCall) {
	t.Helper()
	const wal = "registry.db-wal"
	var last, sync *tracedCall
	for _, call := range calls {
		if !previous.before(call) || call.began > answer.began {
			continue
		}
		switch {
		case call.writes() && call.pathUnder(storage) == wal:
			if first == nil {
				first = call
			}
			last, sync = call, nil
		case last != nil && last.before(call) && call.before(answer) && call.syncs(storage, wal):
			sync = call
		}
	}
	if first == nil {
		t.Fatal("nothing was written to the database's log before the answer")
	}
	if sync == nil {
		t.Fatalf("the database's log was not synced between\n%s\n%s", last.line, answer.line)
	}
	return first
}

// checkBytes checks that a blob's bytes, then its name, were synced before the first
// call that wrote facts.
func checkBytes(t *testing.T, calls []*tracedCall, storage string, blob []byte, previous, facts *tracedCall) {
	t.Helper()
	hex := digest.FromBytes(blob).Encoded()
	folder := path.Join("blobs", "sha256", hex[:2])
	var rename *tracedCall
	for _, call := range calls {
		paths := call.pathsUnder(storage)
		if strings.HasPrefix(call.name, "rename") && previous.before(call) && call.before(facts) && len(paths) == 2 && paths[1] == path.Join(folder, hex) {
			rename = call
		}
	}
	if rename == nil || rename.result != 0 {
		t.Fatal("no file was renamed to the blob before the facts were written")
	}
	upload := rename.pathUnder(storage)
	var last, sync, folderSync *tracedCall
	var written int64
	for _, call := range calls {
		switch {
		case call.writes() && slices.Contains(call.pathsUnder(storage), upload):
			written += call.result
			last, sync = call, nil
		case last != nil && last.before(call) && call.before(rename) && call.syncs(storage, upload):
			sync = call
		case rename.before(call) && call.before(facts) && call.syncs(storage, folder):
			folderSync = call
		}
	}
	if written != int64(len(blob)) {
		t.Fatalf("the trace shows %d bytes written, expected %d", written, len(blob))
	}
	if sync == nil {
		t.Fatalf("the file was not synced between\n%s\n%s", last.line, rename.line)
	}
	if folderSync == nil {
		t.Fatalf("the folder was not synced between\n%s\n%s", rename.line, facts.line)
	}
}

// checkNames checks that the name of each folder that was made for the storage, and of
// the database and its log, was synced before the next acknowledgement.
func checkNames(t *testing.T, calls []*tracedCall, dir string, acknowledged []*tracedCall) {
	t.Helper()
	root, base := path.Split(dir)
	root = path.Clean(root)
	made := make(map[string]bool)
	for _, call := range calls {
		name := call.pathUnder(root)
		inside := strings.HasPrefix(name, base+"/new")
		folder := strings.HasPrefix(call.name, "mkdir") && call.result == 0
		database := call.name == "openat" && strings.Contains(call.line, "O_CREAT") &&
			(strings.HasSuffix(name, "/registry.db") || strings.HasSuffix(name, "/registry.db-wal"))
		if !inside || made[name] || !folder && !database {
			continue
		}
		made[name] = true
		next := slices.IndexFunc(acknowledged, call.before)
		if next < 0 {
			continue
		}
		if !slices.ContainsFunc(calls, func(c *tracedCall) bool {
			return c.syncs(root, path.Dir(name)) && call.before(c) && c.before(acknowledged[next])
		}) {
			t.Errorf("%s was not synced between\n%s\n%s", path.Join(root, path.Dir(name)), call.line, acknowledged[next].line)
		}
	}
	for _, name := range []string{"", "/storage", "/storage/uploads", "/storage/blobs", "/storage/blobs/sha256", "/storage/registry.db", "/storage/registry.db-wal"} {
		if !made[base+"/new"+name] {
			t.Errorf("the trace does not show how new%s was made", name)
		}
	}
}

func pick(calls []*tracedCall, indexes []int) []*tracedCall {
	var picked []*tracedCall
	for _, i := range indexes {
		picked = append(picked, calls[i])
	}
	return picked
}

// TestPullIsCopiedByTheKernel: bytes that do not pass through the process cost it next
// to nothing. Caddy's log and metrics wrap the answer; so must be seen that its
// connection still gets the file itself.
func TestPullIsCopiedByTheKernel(t *testing.T) {
	random := randomSource(t)
	p := newProcess(t, registryCaddyfile)
	trace := traced(t, p, writeCalls)
	p.start()
	w := &wire{address: "127.0.0.1:" + p.port}
	t.Cleanup(w.close)

	// Each pull has a blob of its own, by which the trace tells them apart.
	const size = 20 << 20
	pulls := []struct {
		byRange string
		start   int
		blob    []byte
	}{
		{"", 0, noise(random, size)},
		{"bytes=0-", 0, noise(random, size)},
		{"bytes=5000000-", 5_000_000, noise(random, size)},
	}
	for _, pull := range pulls {
		expect(t, http.StatusCreated)(pushBlob(w.send, "some/image", "POST and PUT", pull.blob))
		header, status := http.Header{}, http.StatusOK
		if pull.byRange != "" {
			header.Set("Range", pull.byRange)
			status = http.StatusPartialContent
		}
		a := expect(t, status)(w.send(http.MethodGet, blobPath("some/image", pull.blob), header, nil))
		if !bytes.Equal(a.body, pull.blob[pull.start:]) {
			t.Fatalf("Range %q: wrong bytes", pull.byRange)
		}
	}
	p.stop()

	calls := trace.read(t)
	for _, pull := range pulls {
		t.Run(fmt.Sprintf("Range %q", pull.byRange), func(t *testing.T) {
			hex := digest.FromBytes(pull.blob).Encoded()
			file := path.Join("blobs", "sha256", hex[:2], hex)
			var sent int64
			for _, call := range calls {
				if call.name == "sendfile" && socketFirst.MatchString(call.line) && call.pathUnder(p.storage) == file {
					sent += max(call.result, 0)
				}
			}
			if want := int64(size - pull.start); sent < want*99/100 {
				t.Errorf("the kernel copied %d of %d bytes", sent, want)
			}
		})
	}
	if !strings.Contains(p.log(), `"handled request"`) {
		t.Error("there is no access log, with which this was to be tested")
	}
}

var socketFirst = regexp.MustCompile(`sendfile\(\d+<socket:`)
