//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestUploadGoesOnAfterKill cuts uploads by killing the server: between two chunks, and
// in the middle of one.
func TestUploadGoesOnAfterKill(t *testing.T) {
	random := randomSource(t)
	p := startProcess(t)
	send := p.client()
	content := noise(random, 8<<20)
	const first = 3 << 20

	between := expect(t, http.StatusAccepted)(send(http.MethodPost, "/v2/cut/between/blobs/uploads/", nil, nil)).header.Get("Location")
	expect(t, http.StatusAccepted)(send(http.MethodPatch, between, contentRange(0, first), content[:first]))
	within := expect(t, http.StatusAccepted)(send(http.MethodPost, "/v2/cut/within/blobs/uploads/", nil, nil)).header.Get("Location")
	expect(t, http.StatusAccepted)(send(http.MethodPatch, within, contentRange(0, first), content[:first]))
	const arrived = 5 << 20
	sendPart(t, p, http.MethodPatch, within, contentRange(first, len(content)-first), content[first:arrived], len(content)-first)
	p.eventually("the part of the chunk is written", func() bool { return p.uploadFiles()[uploadID(within)] == arrived })

	p.kill()
	p.start()

	for location, size := range map[string]int{between: first, within: arrived} {
		a := expect(t, http.StatusNoContent)(send(http.MethodGet, location, nil, nil))
		if got, want := a.header.Get("Range"), fmt.Sprintf("0-%d", size-1); got != want {
			t.Errorf("Range of the upload is %q, expected %q", got, want)
		}
		rest := contentRange(size, len(content)-size)
		if location == between {
			expect(t, http.StatusAccepted)(send(http.MethodPatch, location, rest, content[size:]))
			size, rest = len(content), nil
		}
		expect(t, http.StatusCreated)(send(http.MethodPut, withQuery(location, "digest="+digest.FromBytes(content).String()), rest, content[size:]))
	}
	mustRead(t, send, blobPath("cut/between", content), content)
	mustRead(t, send, blobPath("cut/within", content), content)
}

// TestStartRemovesWhatNoUploadOwns kills the server in a push of one request, which
// nobody can go on with: its bytes must not take room for ever. An upload in chunks stays.
func TestStartRemovesWhatNoUploadOwns(t *testing.T) {
	random := randomSource(t)
	p := startProcess(t)
	send := p.client()
	content := noise(random, 4<<20)
	kept := expect(t, http.StatusAccepted)(send(http.MethodPost, "/v2/orphans/kept/blobs/uploads/", nil, nil)).header.Get("Location")
	expect(t, http.StatusAccepted)(send(http.MethodPatch, kept, nil, content[:1000]))
	sendPart(t, p, http.MethodPost, "/v2/orphans/cut/blobs/uploads/?digest="+digest.FromBytes(content).String(), nil, content[:1<<20], len(content))
	p.eventually("the part of the blob is written", func() bool {
		return slices.Contains(slices.Collect(maps.Values(p.uploadFiles())), 1<<20)
	})

	p.kill()
	if n := len(p.uploadFiles()); n != 2 {
		t.Fatalf("%d files of uploads after the kill, expected that of the push and that of the upload", n)
	}
	p.start()

	want := map[string]int64{uploadID(kept): 1000}
	p.eventually("only the upload in chunks has a file", func() bool { return maps.Equal(p.uploadFiles(), want) })
	expect(t, http.StatusNotFound)(send(http.MethodGet, blobPath("orphans/cut", content), nil, nil))
}

// sendPart sends a request with less of its body than its Content-Length says. The
// connection stays open until the test ends.
func sendPart(t *testing.T, p *process, method, path string, header http.Header, part []byte, length int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+p.port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w := bufio.NewWriter(conn)
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n", method, path, length)
	_ = header.Write(w) // w keeps its errors
	fmt.Fprint(w, "\r\n")
	_, _ = bytes.NewReader(part).WriteTo(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// uploadID returns the name of an upload, which its file has too.
func uploadID(location string) string { return filepath.Base(location) }

// TestStartLooksAtNoBlob: a start must take as long with a million blobs as with none.
func TestStartLooksAtNoBlob(t *testing.T) {
	p := startProcess(t)
	mustPush(t, p.client(), "some/image", "latest", []byte("blob that the facts know"))
	p.kill()
	for i := range 20_000 {
		d := digest.FromString(fmt.Sprint(i)).Encoded()
		folder := filepath.Join(p.storage, "blobs", "sha256", d[:2])
		if err := errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(filepath.Join(folder, d), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	trace := traced(t, p, "%file,getdents64")
	p.start()
	p.stop()

	seen := false
	for _, call := range trace.read(t) {
		inside, ok := strings.CutPrefix(call.pathUnder(p.storage), "blobs/")
		seen = seen || call.pathUnder(p.storage) != ""
		switch depth := strings.Count(inside, "/"); {
		case !ok:
		case depth >= 2:
			t.Fatalf("the start looked at a blob: %s", call.line)
		case depth == 1 && call.name == "getdents64":
			t.Fatalf("the start listed a folder of blobs: %s", call.line)
		}
	}
	if !seen {
		t.Error("the trace shows nothing of the storage, so nothing was tested")
	}
}
