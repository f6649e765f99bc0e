//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// sender sends a request and returns the answer, or the error of a connection that
// broke before the answer was whole.
type sender func(method, path string, header http.Header, body []byte) (answer, error)

// client returns a sender over net/http, with connections of its own.
func (p *process) client() sender {
	transport := new(http.Transport)
	p.t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	return func(method, path string, header http.Header, body []byte) (answer, error) {
		req, err := http.NewRequest(method, p.url(path), bytes.NewReader(body))
		if err != nil {
			return answer{}, err
		}
		if header != nil {
			req.Header = header
		}
		resp, err := client.Do(req)
		if err != nil {
			return answer{}, err
		}
		return readAnswer(resp)
	}
}

// wire is one connection that is kept alive. As any client it notices that the server has
// closed it, but unlike net/http it never sends a request again that was not answered.
type wire struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
}

func (w *wire) send(method, path string, header http.Header, body []byte) (answer, error) {
	if w.conn != nil && isClosed(w.conn) {
		w.close()
	}
	if w.conn == nil {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			return answer{}, err
		}
		w.conn, w.reader = conn, bufio.NewReader(conn)
	}
	req, err := http.NewRequest(method, "http://"+w.address+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if header != nil {
		req.Header = header
	}
	a, last, err := w.roundTrip(req)
	if err != nil || last {
		w.close()
	}
	return a, err
}

// roundTrip also tells whether the server wants no more requests on this connection.
func (w *wire) roundTrip(req *http.Request) (a answer, last bool, err error) {
	if err := req.Write(w.conn); err != nil {
		return a, true, fmt.Errorf("writing %s %s: %w", req.Method, req.URL.Path, err)
	}
	resp, err := http.ReadResponse(w.reader, req)
	if err != nil {
		return a, true, fmt.Errorf("reading the answer to %s %s: %w", req.Method, req.URL.Path, err)
	}
	a, err = readAnswer(resp)
	if err != nil {
		err = fmt.Errorf("reading the body of %s %s: %w", req.Method, req.URL.Path, err)
	}
	return a, resp.Close, err
}

// isClosed tells whether the server has closed an idle connection.
func isClosed(conn net.Conn) bool {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n == 0 && err == nil || err != nil && err != syscall.EAGAIN
		return true
	})
	return closed || err != nil
}

func (w *wire) close() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// pushMethods are the ways of the distribution spec to push a blob.
var pushMethods = []string{"single POST", "POST and PUT", "chunks"}

// pushBlob pushes a blob by one of pushMethods. It returns the last answer: 201, or the
// first that is not what it must be for the push to go on.
func pushBlob(send sender, repository, method string, content []byte) (answer, error) {
	uploads := "/v2/" + repository + "/blobs/uploads/"
	query := "digest=" + digest.FromBytes(content).String()
	if method == "single POST" {
		return send(http.MethodPost, uploads+"?"+query, nil, content)
	}
	a, err := send(http.MethodPost, uploads, nil, nil)
	if err != nil || a.status != http.StatusAccepted {
		return a, err
	}
	if method == "POST and PUT" {
		return send(http.MethodPut, withQuery(a.header.Get("Location"), query), nil, content)
	}
	for start, rest := 0, content; len(rest) > 0; {
		n := min(len(rest), len(content)/3+1)
		a, err = send(http.MethodPatch, a.header.Get("Location"), contentRange(start, n), rest[:n])
		if err != nil || a.status != http.StatusAccepted {
			return a, err
		}
		start, rest = start+n, rest[n:]
	}
	return send(http.MethodPut, withQuery(a.header.Get("Location"), query), nil, nil)
}

func contentRange(start, n int) http.Header {
	return http.Header{"Content-Range": {fmt.Sprintf("%d-%d", start, start+n-1)}}
}

func withQuery(location, query string) string {
	if strings.Contains(location, "?") {
		return location + "&" + query
	}
	return location + "?" + query
}

// pushManifest puts a manifest by its digest or under a tag.
func pushManifest(send sender, repository, reference string, manifest []byte) (answer, error) {
	return send(http.MethodPut, "/v2/"+repository+"/manifests/"+reference,
		http.Header{"Content-Type": {imagespec.MediaTypeImageManifest}}, manifest)
}

// imageOf returns the manifest of an image whose first blob is its config.
func imageOf(annotations map[string]string, blobs ...[]byte) []byte {
	descriptors := make([]imagespec.Descriptor, len(blobs))
	for i, blob := range blobs {
		descriptors[i] = imagespec.Descriptor{MediaType: imagespec.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	}
	descriptors[0].MediaType = imagespec.MediaTypeImageConfig
	manifest, err := json.Marshal(imagespec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   imagespec.MediaTypeImageManifest,
		Config:      descriptors[0],
		Layers:      descriptors[1:],
		Annotations: annotations,
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	return manifest
}

// mustPush pushes an image of one blob under a tag.
func mustPush(t *testing.T, send sender, repository, tag string, blob []byte) (manifest []byte) {
	t.Helper()
	expect(t, http.StatusCreated)(pushBlob(send, repository, "single POST", blob))
	manifest = imageOf(nil, blob)
	expect(t, http.StatusCreated)(pushManifest(send, repository, tag, manifest))
	return manifest
}

// mustRead checks that a path answers with content.
func mustRead(t *testing.T, send sender, path string, content []byte) {
	t.Helper()
	a := expect(t, http.StatusOK)(send(http.MethodGet, path, nil, nil))
	if !bytes.Equal(a.body, content) {
		t.Fatalf("GET %s: %d other bytes than the %d pushed", path, len(a.body), len(content))
	}
}

// expect takes the results of a sender and returns the answer, if it has the status.
func expect(t *testing.T, status int) func(answer, error) answer {
	t.Helper()
	return func(a answer, err error) answer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if a.status != status {
			t.Fatalf("answer %v, expected %d", a, status)
		}
		return a
	}
}

func blobPath(repository string, content []byte) string {
	return "/v2/" + repository + "/blobs/" + digest.FromBytes(content).String()
}

// randomSource returns a source whose seed is in the test's log and can be given back in
// the environment.
func randomSource(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if value := os.Getenv("E2E_SEED"); value != "" {
		var err error
		if seed, err = strconv.ParseUint(value, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("E2E_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// noise returns bytes that nothing compresses or shares.
func noise(random *rand.Rand, size int) []byte {
	content := make([]byte, size)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(random.Uint32())
	}
	_, _ = io.ReadFull(rand.NewChaCha8(seed), content) // never fails
	return content
}
