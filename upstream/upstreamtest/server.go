package upstreamtest

import (
	"crypto/tls"
	"errors"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Start serves a new registry on a free port of the loopback interface until the test ends.
func Start(t testing.TB) *Registry {
	t.Helper()
	return start(t, nil)
}

// StartTLS is Start with TLS. Clients must trust [Registry.CertificatePEM].
func StartTLS(t testing.TB) *Registry {
	t.Helper()
	config, err := newTLS()
	if err != nil {
		t.Fatal(err)
	}
	return start(t, config)
}

// Listen serves a new registry on an address until Close.
func Listen(address string) (*Registry, error) { return listen(address, nil) }

func start(t testing.TB, config *tls.Config) *Registry {
	t.Helper()
	r, err := listen(loopback, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("upstream: %v", err)
		}
	})
	return r
}

func listen(address string, config *tls.Config) (*Registry, error) {
	r := New()
	r.front.address, r.front.tls = address, config
	return r, r.front.up()
}

// Close ends the listeners and all connections.
func (r *Registry) Close() error {
	r.mu.Lock()
	cdn := r.cdn
	r.mu.Unlock()
	err := r.front.down()
	if cdn != nil {
		err = errors.Join(err, cdn.down())
	}
	return err
}

// URL returns where the registry is, without a slash at the end.
func (r *Registry) URL() string { return r.front.url() }

// Host returns the registry's address, host and port, as it is in image names.
func (r *Registry) Host() string { return r.front.address }

// Down ends the listener and all connections: new ones are refused. The CDN stays.
func (r *Registry) Down() {
	must(r.front.down())
}

// BlackHole takes connections and requests, and answers none of them.
func (r *Registry) BlackHole() {
	r.set(func(s *settings) {
		if s.blackHole == nil {
			s.blackHole = make(chan struct{})
		}
	})
}

// Up ends Down, on the same port, and BlackHole, whose connections are cut.
func (r *Registry) Up() {
	r.set(func(s *settings) {
		if s.blackHole != nil {
			close(s.blackHole)
			s.blackHole = nil
		}
	})
	must(r.front.up())
}

// must panics where only a bug or a stranger on the same port can be the cause.
func must(err error) {
	if err != nil {
		panic("upstreamtest: " + err.Error())
	}
}

// cdnPath is where blobs are on the CDN.
const cdnPath = "/cdn/"

// RedirectBlobs has GETs of blobs redirected to another listener, as registries do whose
// blobs are on S3. Its URLs carry a signature. As S3 does, it answers 400 to a request
// that has an Authorization besides; the log has those requests too, with CDN set. They
// name it localhost: net/http takes another port of 127.0.0.1 for the same site, to which
// credentials may follow a redirect.
func (r *Registry) RedirectBlobs() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cdn != nil {
		return
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.serve(w, req, true) })
	cdn := &server{address: loopback, tls: r.front.tls, handler: handler}
	must(cdn.up())
	r.cdn = cdn
}

func (r *Registry) answerCDN(req *http.Request) *answer {
	path, ok := strings.CutPrefix(req.URL.Path, cdnPath)
	i := strings.LastIndexByte(path, '/')
	if !ok || i < 0 {
		return refusal(http.StatusNotFound, "NoSuchKey", "no such key")
	}
	switch {
	case req.Header.Get("Authorization") != "":
		return refusal(http.StatusBadRequest, "InvalidArgument", "only one auth mechanism allowed")
	case req.URL.Query().Get("signature") != "valid":
		return refusal(http.StatusForbidden, "AccessDenied", "access denied")
	}
	name, d := path[:i], digest.Digest(path[i+1:])
	if repository := r.repositories[name]; repository != nil {
		if content, ok := repository.blobs[d]; ok {
			a := blobAnswer(content, d)
			a.header.Del("Docker-Content-Digest") // S3 knows none
			return a
		}
	}
	return refusal(http.StatusNotFound, "NoSuchKey", "no such key")
}

// loopback is a free port.
const loopback = "127.0.0.1:0"

// server is a listener that can be closed and opened again.
type server struct {
	address string // with the port, once it has been up
	tls     *tls.Config
	handler http.Handler

	mu       sync.Mutex
	http     *http.Server // nil when down
	listener net.Listener
}

func (s *server) url() string {
	if s.tls != nil {
		return "https://" + s.address
	}
	return "http://" + s.address
}

// urlAt is the URL by another name of the host.
func (s *server) urlAt(host string) string {
	return strings.Replace(s.url(), "127.0.0.1", host, 1)
}

func (s *server) up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	if strings.HasSuffix(s.address, ":0") {
		s.address = listener.Addr().String()
	}
	if s.tls != nil {
		listener = tls.NewListener(listener, s.tls)
	}
	s.listener = listener
	s.http = &http.Server{
		Handler: s.handler,
		// What it would write, such as of a client that does not trust the certificate,
		// is what tests mean to happen.
		ErrorLog: stdlog.New(io.Discard, "", 0),
	}
	go s.http.Serve(listener) // until Close
	return nil
}

func (s *server) down() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return nil
	}
	// First by itself: a server that was closed before it began to serve leaves it open.
	err := s.listener.Close()
	_ = s.http.Close() // its error is that the listener was closed
	s.http = nil
	return err
}
