package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/internal/faultdisk"
	"github.com/eblume/caddy-registry/storage/internal/race"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// diskRegistry is a registry on a disk of faultdisk.
type diskRegistry struct {
	*storage.Registry
	disk     *faultdisk.Disk
	blobs    storage.BlobStore
	database storage.Database
}

// wrapStore puts something between a registry and its blob store; nil does not.
type wrapStore func(storage.BlobStore) storage.BlobStore

func openFaultDisk(t testing.TB, disk *faultdisk.Disk, wrap wrapStore) (*diskRegistry, error) {
	ctx := context.Background()
	files, err := filesystem.OpenDisk("/registry", disk)
	if err != nil {
		return nil, err
	}
	var blobs storage.BlobStore = files
	if wrap != nil {
		blobs = wrap(blobs)
	}
	database, err := sqlite.Open(ctx, "/registry/registry.db", sqlite.Options{VFS: disk.VFS(t)})
	if err != nil {
		return nil, err
	}
	r := storage.New(blobs, database)
	if err := r.DiscardOrphans(ctx); err != nil {
		return nil, errors.Join(err, database.Close())
	}
	return &diskRegistry{r, disk, blobs, database}, nil
}

// newDisk returns a disk with the folder of the registry, which an administrator made.
func newDisk(t testing.TB) *faultdisk.Disk {
	t.Helper()
	disk := faultdisk.New()
	if err := errors.Join(disk.MkdirAll("/registry"), disk.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	return disk
}

// emptyRegistry returns what makes disks with a registry that is empty.
func emptyRegistry(t testing.TB) func() *faultdisk.Disk {
	t.Helper()
	disk := newDisk(t)
	r, err := openFaultDisk(t, disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return func() *faultdisk.Disk { return disk.AfterPowerLoss(faultdisk.Everything, nil) }
}

// TestPowerLoss cuts the power in the middle of pushes and deletes, in many rounds that
// differ in when it goes and in what of the unsynced survives.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	for _, report := range powerLosses(t, race.Rounds(300), 0, faultdisk.Lies{}, nil) {
		t.Error(report)
	}
}

// TestErrorThenPowerLoss is TestPowerLoss on a disk that had failed once before.
func TestErrorThenPowerLoss(t *testing.T) {
	t.Parallel()
	for _, report := range powerLosses(t, race.Rounds(120), 2, faultdisk.Lies{}, nil, errors.New("a bad sector")) {
		t.Error(report)
	}
}

// TestPowerLossIsNoticed shows that TestPowerLoss fails where a promise is broken: on
// disks that do not do what they are asked, and with facts that come before the bytes.
func TestPowerLossIsNoticed(t *testing.T) {
	for _, test := range []struct {
		name string
		lies faultdisk.Lies
		wrap wrapStore
	}{
		{"files are not synced", faultdisk.Lies{Sync: true}, nil},
		{"folders are not synced", faultdisk.Lies{SyncDir: true}, nil},
		{"the database is not synced", faultdisk.Lies{DatabaseSync: true}, nil},
		{"facts come before the bytes", faultdisk.Lies{}, func(s storage.BlobStore) storage.BlobStore { return &lateStore{BlobStore: s} }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			reports := powerLosses(t, 30, 1, test.lies, test.wrap)
			if len(reports) == 0 {
				t.Fatal("nothing was lost, or nobody noticed")
			}
			t.Logf("noticed %d times, such as: %s", len(reports), reports[0])
		})
	}
}

// lateStore commits a blob when the next one is committed.
type lateStore struct {
	storage.BlobStore
	mu   sync.Mutex
	late func()
}

func (s *lateStore) Writer(ctx context.Context, id string, state storage.UploadState) (storage.BlobWriter, error) {
	w, err := s.BlobStore.Writer(ctx, id, state)
	return &lateWriter{BlobWriter: w, store: s}, err
}

type lateWriter struct {
	storage.BlobWriter
	store     *lateStore
	committed bool
}

func (w *lateWriter) Commit(ctx context.Context, d digest.Digest) (string, error) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.store.late != nil {
		w.store.late()
	}
	// What it says is of no use any more.
	w.store.late = func() { _, _ = w.BlobWriter.Commit(ctx, d) }
	w.committed = true
	return "", nil
}

// Discard leaves what is to be committed.
func (w *lateWriter) Discard() error {
	if w.committed {
		return nil
	}
	return w.BlobWriter.Discard()
}

// powerLosses runs rounds and returns what was found wrong. In each the disk first says
// every one of errs once.
func powerLosses(t *testing.T, n int, salt uint64, lies faultdisk.Lies, wrap wrapStore, errs ...error) []string {
	t.Helper()
	empty := emptyRegistry(t)
	var reports []string
	for round := range n {
		random := rand.New(rand.NewPCG(uint64(round), salt))
		survival := faultdisk.Survivals[round%len(faultdisk.Survivals)]
		disk := empty()
		disk.SetLies(lies)
		r, err := openFaultDisk(t, disk, wrap)
		if err != nil {
			t.Fatal(err)
		}
		clients := newClients(r, random)
		for _, err := range errs {
			disk.FailOnce(1+random.IntN(60), err)
			letPush(clients, func(c *client, _ error) bool { c.calls++; return c.calls%8 > 0 })
		}
		disk.PowerOff(1 + random.IntN(150))
		letPush(clients, func(_ *client, err error) bool {
			if err != nil && !disk.Failing() {
				t.Errorf("refused while the power was on: %v", err)
			}
			return err == nil
		})
		r.Close() // as good as it can

		after, err := openFaultDisk(t, disk.AfterPowerLoss(survival, random), nil)
		if err != nil {
			reports = append(reports, fmt.Sprintf("round %d, %s survives: it does not open: %v", round, survival, err))
			continue
		}
		for _, err := range checkAfterCrash(after, clients) {
			reports = append(reports, fmt.Sprintf("round %d, %s survives: %v", round, survival, err))
		}
		if err := after.Close(); err != nil {
			reports = append(reports, fmt.Sprintf("round %d, %s survives: Close: %v", round, survival, err))
		}
	}
	return reports
}

// newClients returns some that have not done anything yet.
func newClients(r *diskRegistry, random *rand.Rand) []*client {
	var clients []*client
	for i := range 3 {
		clients = append(clients, newClient(r.Registry, fmt.Sprintf("repository%d", i), rand.New(rand.NewPCG(random.Uint64(), 0))))
	}
	return clients
}

// letPush lets clients act at once, each until goOn, which is told of errors, says no.
func letPush(clients []*client, goOn func(*client, error) bool) {
	var wg sync.WaitGroup
	for _, c := range clients {
		wg.Go(func() {
			for goOn(c, c.act()) {
			}
		})
	}
	wg.Wait()
}

// checkAfterCrash returns what is wrong with a registry: what its clients were promised
// and is not there, and what contradicts itself.
func checkAfterCrash(r *diskRegistry, clients []*client) (errs []error) {
	for _, c := range clients {
		errs = append(errs, c.check(r.Registry)...)
	}
	errs = append(errs, checkFacts(r)...)
	errs = append(errs, checkFiles(r.disk)...)
	for _, c := range clients {
		errs = append(errs, c.resume(r.Registry)...)
	}
	return append(errs, checkFiles(r.disk)...)
}

// checkFacts finds facts without bytes.
func checkFacts(r *diskRegistry) (errs []error) {
	rows, err := r.database.Read(context.Background()).Query(`SELECT digest, size FROM blobs`)
	if err != nil {
		return []error{err}
	}
	defer rows.Close()
	for rows.Next() {
		var d digest.Digest
		var size int64
		if err := rows.Scan(&d, &size); err != nil {
			return append(errs, err)
		}
		blob, err := r.blobs.Open(context.Background(), storage.BlobKey{Digest: d})
		if err != nil {
			errs = append(errs, fmt.Errorf("a fact without bytes: %w", err))
			continue
		}
		if n, err := io.Copy(io.Discard, blob); err != nil || n != size {
			errs = append(errs, fmt.Errorf("blob %s has %d bytes, %w, and is said to have %d", d, n, err, size))
		}
		blob.Close()
	}
	if err := rows.Err(); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkFiles finds files under a digest that have other bytes.
func checkFiles(disk *faultdisk.Disk) (errs []error) {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		folder := path.Join("/registry/blobs", algorithm.String())
		prefixes, err := disk.ReadDir(folder)
		if err != nil {
			errs = append(errs, err)
		}
		for _, prefix := range prefixes {
			errs = append(errs, checkFolder(disk, path.Join(folder, prefix.Name()), algorithm)...)
		}
	}
	return errs
}

func checkFolder(disk *faultdisk.Disk, folder string, algorithm digest.Algorithm) (errs []error) {
	entries, err := disk.ReadDir(folder)
	if err != nil {
		return []error{err}
	}
	for _, entry := range entries {
		content, err := readFile(disk, path.Join(folder, entry.Name()))
		if err != nil {
			errs = append(errs, err)
		} else if got := algorithm.FromBytes(content); got.Encoded() != entry.Name() {
			errs = append(errs, fmt.Errorf("file %s has %d bytes of %s", entry.Name(), len(content), got))
		}
	}
	return errs
}

func readFile(disk *faultdisk.Disk, name string) ([]byte, error) {
	f, err := disk.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// client pushes and deletes in a repository of its own, and remembers what it was told.
type client struct {
	r          *storage.Registry
	repository string
	random     *rand.Rand
	calls      int

	blobs     map[digest.Digest]promise
	manifests map[digest.Digest]promise
	tags      map[string][]digest.Digest // what each may stand for, "" being nothing
	named     map[digest.Digest]*storage.Manifest
	uploads   map[string]string // id → what was sent or was about to be
}

// promise is what a client knows about something.
type promise int

const (
	absent  promise = iota
	present         // the registry said so
	unsure          // the power went before it said anything
)

func newClient(r *storage.Registry, repository string, random *rand.Rand) *client {
	return &client{
		r:          r,
		repository: repository,
		random:     random,
		blobs:      map[digest.Digest]promise{},
		manifests:  map[digest.Digest]promise{},
		tags:       map[string][]digest.Digest{},
		named:      map[digest.Digest]*storage.Manifest{},
		uploads:    map[string]string{},
	}
}

// blobContent is one of a few contents, of up to five pages, that clients share.
func blobContent(i int) string { return strings.Repeat(fmt.Sprintf("blob %d ", i), i*i*5) }

// act makes one call, or a few.
func (c *client) act() error {
	ctx := context.Background()
	switch n := c.random.IntN(10); {
	case n < 3:
		return c.putImage(ctx)
	case n < 5:
		return c.pushBlob(ctx, blobContent(c.random.IntN(25)))
	case n < 8:
		return c.upload(ctx, blobContent(c.random.IntN(25)))
	case n == 8:
		return c.deleteTag(ctx)
	}
	return c.deleteManifest(ctx)
}

func (c *client) pushBlob(ctx context.Context, content string) error {
	d := digest.FromString(content)
	c.begin(c.blobs, d, present)
	err := c.r.PushBlob(ctx, c.repository, strings.NewReader(content), d)
	return c.end(c.blobs, d, present, err)
}

// begin makes a promise doubtful that is about to change.
func (c *client) begin(promises map[digest.Digest]promise, d digest.Digest, to promise) {
	if promises[d] != to {
		promises[d] = unsure
	}
}

func (c *client) end(promises map[digest.Digest]promise, d digest.Digest, to promise, err error) error {
	if err == nil {
		promises[d] = to
	}
	return err
}

// upload sends content in pieces, and now and then leaves an upload where it is.
func (c *client) upload(ctx context.Context, content string) error {
	id, err := c.r.StartUpload(ctx, c.repository, digest.SHA256)
	if err != nil {
		return err
	}
	c.uploads[id] = content
	d := digest.FromString(content)
	for sent := 0; sent < len(content); {
		n := min(1+c.random.IntN(8000), len(content)-sent)
		chunk := storage.Chunk{Body: idleBody{strings.NewReader(content[sent : sent+n])}, Start: int64(sent), Size: int64(n)}
		if _, err := c.r.AppendUpload(ctx, c.repository, id, chunk); err != nil {
			return err
		}
		sent += n
		if c.random.IntN(5) == 0 {
			return nil
		}
	}
	c.begin(c.blobs, d, present)
	_, err = c.r.FinishUpload(ctx, c.repository, id, storage.Chunk{Start: -1, Size: -1}, d)
	return c.end(c.blobs, d, present, err)
}

// idleBody is a body that never waits.
type idleBody struct{ io.Reader }

func (idleBody) Interrupt() {}

func (c *client) putImage(ctx context.Context) error {
	config, layer := blobContent(0), blobContent(1+c.random.IntN(24))
	for _, content := range []string{config, layer} {
		if err := c.pushBlob(ctx, content); err != nil {
			return err
		}
	}
	m := imageOf(digest.FromString(config), digest.FromString(layer))
	tag := fmt.Sprintf("v%d", c.random.IntN(3))
	c.named[m.Digest] = m
	c.begin(c.manifests, m.Digest, present)
	c.tags[tag] = append(c.tag(tag), m.Digest)
	if _, err := c.r.PutManifest(ctx, c.repository, m, storage.Put{Tags: []string{tag}}); err != nil {
		return err
	}
	c.tags[tag] = []digest.Digest{m.Digest}
	c.manifests[m.Digest] = present
	return nil
}

func imageOf(config, layer digest.Digest) *storage.Manifest {
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	content := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":%q},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":1,"digest":%q}]}`, mediaType, config, layer)
	m, err := storage.ParseManifest(mediaType, []byte(content), digest.SHA256)
	if err != nil {
		panic(err)
	}
	return m
}

// tag returns a copy of what a tag may stand for.
func (c *client) tag(tag string) []digest.Digest {
	if len(c.tags[tag]) == 0 {
		return []digest.Digest{""}
	}
	return slices.Clone(c.tags[tag])
}

func (c *client) deleteTag(ctx context.Context) error {
	tag := fmt.Sprintf("v%d", c.random.IntN(3))
	if current := c.tag(tag); len(current) > 1 || current[0] == "" {
		return nil
	}
	c.tags[tag] = append(c.tag(tag), "")
	if err := c.r.DeleteTag(ctx, c.repository, tag); err != nil {
		return err
	}
	delete(c.tags, tag)
	return nil
}

func (c *client) deleteManifest(ctx context.Context) error {
	for d, p := range c.manifests {
		if p != present {
			continue
		}
		c.manifests[d] = unsure
		for tag, allowed := range c.tags {
			if slices.Contains(allowed, d) {
				c.tags[tag] = append(c.tag(tag), "")
			}
		}
		if err := c.r.DeleteManifest(ctx, c.repository, d); err != nil {
			return err
		}
		c.manifests[d] = absent
		for tag, allowed := range c.tags {
			c.tags[tag] = slices.DeleteFunc(allowed, func(other digest.Digest) bool { return other == d })
		}
		return nil
	}
	return nil
}

// check returns what the client was promised and is not so.
func (c *client) check(r *storage.Registry) (errs []error) {
	ctx := context.Background()
	for d, p := range c.blobs {
		_, err := r.StatBlob(ctx, c.repository, d)
		if wrong := p.compare("blob "+d.String(), err, storage.ErrBlobUnknown); wrong != nil {
			errs = append(errs, wrong)
		}
		if err == nil {
			if err := c.checkBlob(r, d); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for d, p := range c.manifests {
		m, err := r.Manifest(ctx, c.repository, storage.Reference{Digest: d})
		if wrong := p.compare("manifest "+d.String(), err, storage.ErrManifestUnknown); wrong != nil {
			errs = append(errs, wrong)
		}
		if err != nil {
			continue
		}
		if !bytes.Equal(m.Content, c.named[d].Content) {
			errs = append(errs, fmt.Errorf("manifest %s has other bytes", d))
		}
		for _, blob := range c.named[d].Required {
			if err := c.checkBlob(r, blob); err != nil {
				errs = append(errs, fmt.Errorf("manifest %s lacks what it names: %w", d, err))
			}
		}
	}
	for tag := range c.tags {
		if err := c.checkTag(r, tag, c.tag(tag)); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// compare returns how a promise is broken by what was found: err, which is unknown if
// there is nothing.
func (p promise) compare(what string, err, unknown error) error {
	switch {
	case err == nil && p == absent:
		return fmt.Errorf("%s is there again", what)
	case errors.Is(err, unknown) || errors.Is(err, storage.ErrNameUnknown):
		if p == present {
			return fmt.Errorf("%s is lost: %w", what, err)
		}
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (c *client) checkBlob(r *storage.Registry, d digest.Digest) error {
	blob, _, err := r.OpenBlob(context.Background(), c.repository, d)
	if err != nil {
		return err
	}
	defer blob.Close()
	content, err := io.ReadAll(blob)
	if got := digest.FromBytes(content); err == nil && got != d {
		err = fmt.Errorf("blob %s has %d bytes of %s", d, len(content), got)
	}
	return err
}

func (c *client) checkTag(r *storage.Registry, tag string, allowed []digest.Digest) error {
	m, err := r.Manifest(context.Background(), c.repository, storage.Reference{Tag: tag})
	var got digest.Digest
	switch {
	case err == nil:
		got = m.Digest
	case !errors.Is(err, storage.ErrManifestUnknown) && !errors.Is(err, storage.ErrNameUnknown):
		return err
	}
	if slices.Contains(allowed, got) {
		return nil
	}
	return fmt.Errorf("tag %s is %q, want one of %q: %w", tag, got, allowed, err)
}

// resume goes on with the uploads that the client began. They may be gone, or fail for
// what they lost, but what is taken must be right.
func (c *client) resume(r *storage.Registry) (errs []error) {
	ctx := context.Background()
	for id, content := range c.uploads {
		size, err := r.UploadSize(ctx, c.repository, id)
		if errors.Is(err, storage.ErrUploadUnknown) {
			continue
		}
		if err != nil || size > int64(len(content)) {
			errs = append(errs, fmt.Errorf("upload %s has %d bytes of %d, %w", id, size, len(content), err))
			continue
		}
		d := digest.FromString(content)
		chunk := storage.Chunk{Body: idleBody{strings.NewReader(content[size:])}, Start: size, Size: -1}
		_, err = r.FinishUpload(ctx, c.repository, id, chunk, d)
		if err == nil {
			err = c.checkBlob(r, d)
		}
		if err != nil && !errors.Is(err, storage.ErrDigestInvalid) {
			errs = append(errs, fmt.Errorf("going on with upload %s: %w", id, err))
		}
	}
	return errs
}

// TestPowerLossAtFirst cuts the power at each operation of the making of a storage.
func TestPowerLossAtFirst(t *testing.T) {
	t.Parallel()
	disk := newDisk(t)
	before := disk.Operations()
	r, err := openFaultDisk(t, disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// All at once, since the migrations try again for a while when they fail.
	var all sync.WaitGroup
	for n := 1; n <= disk.Operations()-before; n += race.Stride() {
		disk := newDisk(t)
		disk.PowerOff(n)
		all.Go(func() {
			if r, err := openFaultDisk(t, disk, nil); err == nil {
				r.Close() // as good as it can
			}
			for _, survival := range faultdisk.Survivals {
				after := disk.AfterPowerLoss(survival, rand.New(rand.NewPCG(uint64(n), 0)))
				if err := openAndPush(t, after); err != nil {
					t.Errorf("operation %d, %s survives: %v", n, survival, err)
				}
			}
		})
	}
	all.Wait()
}

func openAndPush(t *testing.T, disk *faultdisk.Disk) error {
	r, err := openFaultDisk(t, disk, nil)
	if err != nil {
		return fmt.Errorf("it does not open: %w", err)
	}
	d := digest.FromString("abc")
	if err := r.PushBlob(context.Background(), "a", strings.NewReader("abc"), d); err != nil {
		return errors.Join(err, r.Close())
	}
	c := client{repository: "a"}
	return errors.Join(c.checkBlob(r.Registry, d), r.Close())
}
