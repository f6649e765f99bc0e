// Package storagetest tests that a blob store and a database do what package storage
// relies on. Every implementation's own test calls [TestBlobStore] or [TestDatabase],
// and [TestRegistry] over the pairs that a registry is served from.
package storagetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// Open opens one storage. It is called again after what it returned was closed, as a
// process that starts anew does.
type Open func() (storage.BlobStore, storage.Database, error)

// registry is a registry over an empty storage, which can be opened anew.
type registry struct {
	*storage.Registry
	t        testing.TB
	open     Open
	blobs    storage.BlobStore
	database storage.Database
}

func newRegistry(t *testing.T, fresh func(testing.TB) Open) *registry {
	t.Helper()
	r := &registry{t: t, open: fresh(t)}
	r.start()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}

func (r *registry) start() {
	r.t.Helper()
	blobs, database, err := r.open()
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	r.blobs, r.database = blobs, database
	r.Registry = storage.New(blobs, database)
	if err := r.DiscardOrphans(context.Background()); err != nil {
		r.t.Fatalf("DiscardOrphans: %v", err)
	}
}

// restart is what happens when the server is stopped and started.
func (r *registry) restart() {
	r.t.Helper()
	if err := r.Close(); err != nil {
		r.t.Fatalf("Close: %v", err)
	}
	r.start()
}

// push makes content a blob of a repository.
func (r *registry) push(repository, content string) digest.Digest {
	r.t.Helper()
	d := digest.FromString(content)
	if err := r.PushBlob(context.Background(), repository, bytes.NewReader([]byte(content)), d); err != nil {
		r.t.Fatalf("PushBlob: %v", err)
	}
	return d
}

// pushImage pushes a config and layers and returns an image of them, which is not put.
func (r *registry) pushImage(repository string, layers ...string) *storage.Manifest {
	r.t.Helper()
	var digests []digest.Digest
	for _, layer := range layers {
		digests = append(digests, r.push(repository, layer))
	}
	return image(r.t, r.push(repository, "{}"), digests...)
}

// put puts a manifest under tags.
func (r *registry) put(repository string, m *storage.Manifest, tags ...string) {
	r.t.Helper()
	if _, err := r.PutManifest(context.Background(), repository, m, storage.Put{Tags: tags}); err != nil {
		r.t.Fatalf("PutManifest: %v", err)
	}
}

// begin starts an upload.
func (r *registry) begin(repository string) string {
	r.t.Helper()
	id, err := r.StartUpload(context.Background(), repository, digest.SHA256)
	if err != nil {
		r.t.Fatalf("StartUpload: %v", err)
	}
	return id
}

// add appends to an upload wherever that stands.
func (r *registry) add(repository, id, content string) {
	r.t.Helper()
	if _, err := r.AppendUpload(context.Background(), repository, id, chunk(content)); err != nil {
		r.t.Fatalf("AppendUpload: %v", err)
	}
}

// finish ends an upload as the blob content.
func (r *registry) finish(repository, id, content string) {
	r.t.Helper()
	if _, err := r.FinishUpload(context.Background(), repository, id, storage.Chunk{Start: -1, Size: -1}, digest.FromString(content)); err != nil {
		r.t.Fatalf("FinishUpload: %v", err)
	}
}

// wantBlob checks that a repository has a blob, with the right bytes.
func (r *registry) wantBlob(repository string, d digest.Digest) {
	r.t.Helper()
	if err := checkBlob(r.Registry, repository, d); err != nil {
		r.t.Error(err)
	}
}

// checkBlob tells why a repository does not have a blob with the right bytes.
func checkBlob(r *storage.Registry, repository string, d digest.Digest) error {
	blob, size, err := r.OpenBlob(context.Background(), repository, d)
	if err != nil {
		return fmt.Errorf("OpenBlob: %w", err)
	}
	defer blob.Close()
	content, err := io.ReadAll(blob)
	if err != nil {
		return fmt.Errorf("reading %s: %w", d, err)
	}
	if int64(len(content)) != size {
		return fmt.Errorf("blob %s has %d bytes, OpenBlob says %d", d, len(content), size)
	}
	if got := d.Algorithm().FromBytes(content); got != d {
		return fmt.Errorf("blob %s has the bytes of %s", d, got)
	}
	return nil
}

// wantNoBlob checks that a repository does not hold a blob.
func (r *registry) wantNoBlob(repository string, d digest.Digest) {
	r.t.Helper()
	_, err := r.StatBlob(context.Background(), repository, d)
	wantError(r.t, "StatBlob", err, storage.ErrBlobUnknown)
	_, _, err = r.OpenBlob(context.Background(), repository, d)
	wantError(r.t, "OpenBlob", err, storage.ErrBlobUnknown)
}

// wantManifest checks that a reference of a repository stands for m.
func (r *registry) wantManifest(repository, reference string, m *storage.Manifest) {
	r.t.Helper()
	got, err := r.manifest(repository, reference)
	if err != nil {
		r.t.Errorf("Manifest %s: %v", reference, err)
		return
	}
	if got.Digest != m.Digest || got.MediaType != m.MediaType || !bytes.Equal(got.Content, m.Content) {
		r.t.Errorf("Manifest %s is %s (%s, %d bytes), want %s (%s, %d bytes)", reference,
			got.Digest, got.MediaType, len(got.Content), m.Digest, m.MediaType, len(m.Content))
	}
}

func (r *registry) wantNoManifest(repository, reference string, sentinel error) {
	r.t.Helper()
	_, err := r.manifest(repository, reference)
	wantError(r.t, "Manifest "+reference, err, sentinel)
}

func (r *registry) manifest(repository, reference string) (*storage.Manifest, error) {
	r.t.Helper()
	ref, err := storage.ParseReference(reference)
	if err != nil {
		r.t.Fatalf("ParseReference: %v", err)
	}
	return r.Manifest(context.Background(), repository, ref)
}

// wantNoUpload checks that an upload is gone, its bytes too.
func (r *registry) wantNoUpload(repository, id string) {
	r.t.Helper()
	_, err := r.UploadSize(context.Background(), repository, id)
	wantError(r.t, "UploadSize", err, storage.ErrUploadUnknown)
	for kept, err := range r.blobs.Uploads(context.Background()) {
		if err != nil {
			r.t.Errorf("Uploads: %v", err)
		}
		if kept == id {
			r.t.Errorf("upload %s is gone but still takes room", id)
		}
	}
}

func (r *registry) wantStats(want storage.Stats) {
	r.t.Helper()
	got, err := r.Stats(context.Background())
	if err != nil || got != want {
		r.t.Errorf("Stats = %+v, %v, want %+v", got, err, want)
	}
}

func wantError(t testing.TB, what string, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Errorf("%s: error %v, want %v", what, err, sentinel)
	}
}

// descriptor names content that need not exist.
func descriptor(mediaType string, d digest.Digest) imagespec.Descriptor {
	return imagespec.Descriptor{MediaType: mediaType, Digest: d, Size: 1}
}

// image returns an image manifest.
func image(t testing.TB, config digest.Digest, layers ...digest.Digest) *storage.Manifest {
	t.Helper()
	m := imagespec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Config:    descriptor(imagespec.MediaTypeImageConfig, config),
		Layers:    []imagespec.Descriptor{},
	}
	for _, layer := range layers {
		m.Layers = append(m.Layers, descriptor(imagespec.MediaTypeImageLayer, layer))
	}
	return parse(t, imagespec.MediaTypeImageManifest, m)
}

// index returns an index.
func index(t testing.TB, children ...digest.Digest) *storage.Manifest {
	t.Helper()
	x := imagespec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []imagespec.Descriptor{}}
	for _, child := range children {
		x.Manifests = append(x.Manifests, descriptor(imagespec.MediaTypeImageManifest, child))
	}
	return parse(t, imagespec.MediaTypeImageIndex, x)
}

func parse(t testing.TB, mediaType string, document any) *storage.Manifest {
	t.Helper()
	content, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	m, err := storage.ParseManifest(mediaType, content, digest.SHA256)
	if err != nil {
		t.Fatalf("ParseManifest: %v", err)
	}
	return m
}

// chunk is a piece of an upload that fits wherever that stands.
func chunk(content string) storage.Chunk {
	return storage.Chunk{Body: newBody(content), Start: -1, Size: -1}
}

// body is a request's content. After its bytes it ends, or fails with err, or if it
// hangs waits for Interrupt.
type body struct {
	io.Reader
	err         error
	hangs       bool
	waiting     chan struct{} // closed when a hanging body has no more
	interrupted chan struct{}
	wait, end   sync.Once
}

func newBody(content string) *body {
	return &body{Reader: bytes.NewReader([]byte(content)), err: io.EOF, waiting: make(chan struct{}), interrupted: make(chan struct{})}
}

var errInterrupted = errors.New("interrupted")

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != io.EOF {
		return n, err
	}
	if !b.hangs {
		return n, b.err
	}
	b.wait.Do(func() { close(b.waiting) })
	<-b.interrupted
	return n, errInterrupted
}

func (b *body) Interrupt() { b.end.Do(func() { close(b.interrupted) }) }

// together runs all at once and returns their errors.
func together(all ...func() error) []error {
	errs := make([]error, len(all))
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i, f := range all {
		wg.Go(func() {
			<-start
			errs[i] = f()
		})
	}
	close(start)
	wg.Wait()
	return errs
}
