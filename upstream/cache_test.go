package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/eblume/caddy-registry/distribution"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/sqlite"
	"github.com/eblume/caddy-registry/upstream/upstreamtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code) // which is what the cleanup stands in for
	}))
}

// hub is the upstream's name in these tests.
const hub = "hub.test"

// site is a registry that caches upstreams, all of it real but Caddy.
type site struct {
	t         *testing.T
	dir       string
	upstreams []*upstreamtest.Registry // URLs of hub, in this order
	setup     setup

	database  storage.Database
	registry  *storage.Registry
	transfers *Transfers
	client    *Client
	cache     *Cache
	room      *Room
	counts    *counts
	log       *logged
	server    *httptest.Server
}

// setup is what tests change of a site.
type setup struct {
	urls    int // that the upstream has; one if zero
	tls     bool
	stall   time.Duration
	options Options
	maxSize int64
	keep    func(string) bool
	minFree int64
	blobs   func(dir string) (storage.BlobStore, error)
	client  *Client // instead of one of the upstreams
}

func newSite(t *testing.T, s setup) *site {
	t.Helper()
	site := &site{t: t, dir: t.TempDir(), setup: s}
	if s.client == nil {
		for range max(1, s.urls) {
			site.upstreams = append(site.upstreams, upstreamtest.Start(t))
		}
	}
	site.open()
	t.Cleanup(func() { site.close() })
	return site
}

func (s *site) open() {
	s.t.Helper()
	blobs, err := s.openBlobs()
	if err != nil {
		s.t.Fatal(err)
	}
	database, err := sqlite.Open(s.t.Context(), filepath.Join(s.dir, "registry.db"), sqlite.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.database = database
	s.registry = storage.New(blobs, database)
	s.counts, s.log = newCounts(), new(logged)
	log := slog.New(slog.NewTextHandler(s.log, nil))
	s.transfers = NewTransfers(s.registry, log)
	s.client = s.setup.client
	if s.client == nil {
		s.client = s.newClient()
	}
	options := s.setup.options
	options.Name, options.Client, options.Log, options.Meter = hub, s.client, log, s.counts.meter()
	options.Room = &Room{
		Registry: s.registry, Transfers: s.transfers, MinFree: func(int64) int64 { return s.setup.minFree },
		MaxSize: s.setup.maxSize, Keep: s.setup.keep, Log: log,
	}
	s.room = options.Room
	s.cache = NewCache(options, s.registry, s.transfers)
	s.server = httptest.NewUnstartedServer(s)
	s.server.EnableHTTP2 = s.setup.tls
	if s.setup.client != nil {
		return // these talk to the handler, in a bubble without a network
	}
	if s.setup.tls {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
}

func (s *site) openBlobs() (storage.BlobStore, error) {
	if s.setup.blobs != nil {
		return s.setup.blobs(s.dir)
	}
	return filesystem.Open(s.t.Context(), s.dir)
}

func (s *site) newClient() *Client {
	s.t.Helper()
	config := Config{Name: hub, stall: s.setup.stall}
	for _, u := range s.upstreams {
		config.URLs = append(config.URLs, u.URL())
	}
	client, err := NewClient(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

// close ends a site as a server ends that is told to.
func (s *site) close() {
	s.t.Helper()
	if s.setup.client == nil {
		s.server.CloseClientConnections()
		s.server.Close()
	}
	s.transfers.Close()
	s.client.Close()
	if err := s.registry.Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *site) restart() {
	s.t.Helper()
	s.close()
	s.open()
}

// up is the upstream, or the first of its URLs.
func (s *site) up() *upstreamtest.Registry { return s.upstreams[0] }

func (s *site) view(repository string, results *[]Result) *View {
	remote := strings.TrimPrefix(repository, hub+"/")
	return s.cache.View(Mapped{Repository: repository, Upstream: hub, Remote: remote}, func(r Result) { *results = append(*results, r) })
}

// ServeHTTP answers as Caddy's handlers do, for names under hub from the cache.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	api := &distribution.Handler{Registry: s.registry, Log: slog.New(slog.NewTextHandler(s.log, nil))}
	target, err := distribution.ParsePath(r.URL.EscapedPath())
	if err != nil || !strings.HasPrefix(target.Repository, hub+"/") || distribution.IsPush(r.Method) {
		api.ServeHTTP(w, r)
		return
	}
	var results []Result
	api.Serve(w, r, target, told{s.view(target.Repository, &results), w, &results}, distribution.Everything)
}

// told tells in a header where an answer came from, and errors by status.
type told struct {
	*View
	w       http.ResponseWriter
	results *[]Result
}

func (t told) tell(err error) error {
	t.w.Header().Set("X-Registry-Cache", strings.Trim(fmt.Sprint(*t.results), "[]"))
	for status, kind := range map[int]error{403: ErrDenied, 429: ErrRateLimited, 502: ErrUnavailable, 504: ErrTimeout, 500: ErrInvalid} {
		if errors.Is(err, kind) {
			return &distribution.Refusal{Status: status, Code: "DENIED", Err: err}
		}
	}
	return err
}

func (t told) Manifest(ctx context.Context, repository string, ref storage.Reference) (*storage.Manifest, error) {
	m, err := t.View.Manifest(ctx, repository, ref)
	return m, t.tell(err)
}

func (t told) StatBlob(ctx context.Context, repository string, d digest.Digest) (int64, error) {
	size, err := t.View.StatBlob(ctx, repository, d)
	return size, t.tell(err)
}

func (t told) OpenBlob(ctx context.Context, repository string, d digest.Digest) (io.ReadSeekCloser, int64, error) {
	blob, size, err := t.View.OpenBlob(ctx, repository, d)
	return blob, size, t.tell(err)
}

func (t told) Tags(ctx context.Context, repository, last string, n int) ([]string, error) {
	tags, err := t.View.Tags(ctx, repository, last, n)
	return tags, t.tell(err)
}

func (t told) Referrers(ctx context.Context, repository string, subject digest.Digest, artifactType string, last digest.Digest, n int) ([]imagespec.Descriptor, error) {
	found, err := t.View.Referrers(ctx, repository, subject, artifactType, last, n)
	return found, t.tell(err)
}

// kept waits until all transfers have ended, and reports whether the copy of a repository
// has a blob.
func (s *site) kept(repository string, d digest.Digest) bool {
	s.t.Helper()
	s.settle()
	_, err := s.registry.StatBlob(s.t.Context(), hub+"/"+repository, d)
	if err != nil && !isAbsent(err) {
		s.t.Error(err)
	}
	return err == nil
}

// settle waits until all transfers have ended.
func (s *site) settle() {
	for {
		s.transfers.mu.Lock()
		var t *transfer
		for _, t = range s.transfers.active {
			break
		}
		s.transfers.mu.Unlock()
		if t == nil {
			return
		}
		<-t.ended
	}
}

// wantNothingLeft checks that no transfer left a partial file.
func (s *site) wantNothingLeft() {
	s.t.Helper()
	s.settle()
	files, err := filepath.Glob(filepath.Join(s.dir, "uploads", "*"))
	if err != nil || len(files) > 0 {
		s.t.Errorf("left in uploads: %v, %v", files, err)
	}
	var n int
	if err := s.database.Read(s.t.Context()).QueryRow(`SELECT count(*) FROM uploads`).Scan(&n); err != nil || n != 0 {
		s.t.Errorf("facts of %d uploads are left, %v", n, err)
	}
}

// asked are the GETs of blobs that the upstream answered.
func (s *site) asked() upstreamtest.Requests { return s.up().Requests().Blobs().Method(http.MethodGet) }

// await waits until something is so that nothing tells of.
func (s *site) await(what string, so func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not seen", what)
		}
	}
}

func described(d digest.Digest) imagespec.Descriptor { return imagespec.Descriptor{Digest: d} }
