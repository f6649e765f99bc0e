package storagetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/race"
)

// Collecting is how long the test goes on that pushes, deletes and pulls while it
// collects; 0: a moment, counted in steps.
var Collecting time.Duration

// keptUntagged is how long manifests without a tag are kept while others push.
const keptUntagged = time.Second

// collectingRepositories are shared by all who push.
var collectingRepositories = []string{"a", "b", "a/c"}

// testCollectBesideEverything has several clients push, retag, mount, pull and delete,
// in repositories and with blobs that they share, while others collect all the time with
// no delay at all. Each client knows what must be there of its own. In the end all is
// collected that a tag does not lead to, and nothing else.
func testCollectBesideEverything(t *testing.T, fresh func(testing.TB) Open) {
	r := newRegistry(t, fresh)
	ctx, stop := context.WithCancel(context.Background())
	if Collecting > 0 {
		time.AfterFunc(Collecting, stop)
	}
	var clients, collectors sync.WaitGroup
	for i := range 4 {
		c := &client{r: r, name: fmt.Sprint("c", i), rand: rand.New(rand.NewPCG(uint64(i), 7)), tags: map[ownTag]*storage.Manifest{}, signed: map[ownTag]digest.Digest{}}
		clients.Go(func() {
			for steps := 0; ctx.Err() == nil && !t.Failed() && (Collecting > 0 || steps < race.Rounds(400)); steps++ {
				if err := c.step(); err != nil {
					t.Errorf("client %s, step %d: %v", c.name, steps, err)
					return
				}
			}
		})
	}
	for i := range 2 {
		collectors.Go(func() {
			for ctx.Err() == nil {
				options := storage.CollectOptions{UploadExpiry: time.Hour, DryRun: i == 1, Retention: []storage.Retention{{
					Match:    func(repository string) bool { return repository != "b" },
					KeepTags: func(tag string) bool { return !strings.HasPrefix(tag, "old") },
				}}}
				if i == 0 {
					options.Untagged = keptUntagged
				}
				if _, err := r.Collect(ctx, options); err != nil && ctx.Err() == nil {
					t.Errorf("Collect: %v", err)
					return
				}
			}
		})
	}
	clients.Wait()
	stop()
	collectors.Wait()
	wantNothingElse(t, r)
}

type ownTag struct{ repository, tag string }

// client pushes and deletes what is its own: each manifest has its name in it. Blobs are
// everybody's.
type client struct {
	r      *registry
	name   string
	rand   *rand.Rand
	pushed int
	tags   map[ownTag]*storage.Manifest // what they must name
	signed map[ownTag]digest.Digest     // what refers to that
}

func (c *client) repository() string {
	return collectingRepositories[c.rand.IntN(len(collectingRepositories))]
}

// step does one thing that a client does.
func (c *client) step() error {
	switch n := c.rand.IntN(10); {
	case n < 4:
		return c.push(fmt.Sprintf("%s-%d", c.name, c.rand.IntN(5)))
	case n < 5:
		return c.push(fmt.Sprintf("old-%s-%d", c.name, c.rand.IntN(5)))
	case n < 6:
		return c.deleteOne()
	case n < 7:
		d := digest.FromString(c.layer())
		err := c.r.DeleteBlob(context.Background(), c.repository(), d)
		return allow(err, storage.ErrBlobUnknown, storage.ErrBlobReferenced, storage.ErrNameUnknown)
	default:
		return c.pull()
	}
}

func (c *client) layer() string { return fmt.Sprint("layer ", c.rand.IntN(12)) }

// push pushes an image, or an index of some, and often what refers to it.
func (c *client) push(tag string) error {
	ctx, repository, began := context.Background(), c.repository(), time.Now()
	top, err := c.image(repository, "")
	if err != nil || top == nil {
		return err
	}
	if c.rand.IntN(3) == 0 {
		other, err := c.image(repository, "")
		if err != nil || other == nil {
			return err
		}
		top = index(c.r.t, top.Digest, other.Digest)
		if _, err := c.r.PutManifest(ctx, repository, top, storage.Put{}); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	// From now on, since the tag is moved to it, all that it consists of must stay.
	if _, err := c.r.PutManifest(ctx, repository, top, storage.Put{Tags: []string{tag}}); err != nil {
		return allow(fmt.Errorf("tag: %w", err), storage.ErrManifestBlobUnknown)
	}
	if strings.HasPrefix(tag, "old") {
		return nil // retention may take it
	}
	if err := c.pullAll(repository, top); err != nil {
		if time.Since(began) > keptUntagged {
			return allow(err, storage.ErrManifestUnknown) // an entry had gone before its index came
		}
		return fmt.Errorf("pushed a moment ago: %w", err)
	}
	own := ownTag{repository, tag}
	c.tags[own] = top
	delete(c.signed, own)
	if c.rand.IntN(3) > 0 {
		return nil
	}
	signature, err := c.image(repository, top.Digest)
	if err == nil && signature != nil {
		c.signed[own] = signature.Digest
	}
	return err
}

// image pushes an image without a tag. Whatever it is told is there may be gone by the
// next call, since nothing is kept for a while: then it gives up and returns nil.
func (c *client) image(repository string, subject digest.Digest) (*storage.Manifest, error) {
	ctx := context.Background()
	config, layer := fmt.Sprintf("{%q:%d}", c.name, c.pushed), c.layer()
	c.pushed++
	from := c.repository()
	if err := c.r.MountBlob(ctx, repository, from, digest.FromString(layer), nil); err != nil {
		if err := allow(err, storage.ErrBlobUnknown); err != nil {
			return nil, err
		}
		if err := c.pushBlob(repository, layer); err != nil {
			return nil, err
		}
	}
	if err := c.pushBlob(repository, config); err != nil {
		return nil, err
	}
	m := image(c.r.t, digest.FromString(config), digest.FromString(layer))
	if subject != "" {
		m = c.referring(m, subject)
	}
	if _, err := c.r.PutManifest(ctx, repository, m, storage.Put{}); err != nil {
		return nil, allow(err, storage.ErrManifestBlobUnknown)
	}
	return m, nil
}

func (c *client) referring(m *storage.Manifest, subject digest.Digest) *storage.Manifest {
	content := strings.Replace(string(m.Content), `"schemaVersion":2`,
		fmt.Sprintf(`"schemaVersion":2,"subject":{"mediaType":%q,"digest":%q,"size":1}`, imagespec.MediaTypeImageManifest, subject), 1)
	signature, err := storage.ParseManifest(m.MediaType, []byte(content), digest.SHA256)
	if err != nil {
		c.r.t.Errorf("ParseManifest: %v", err)
		return m
	}
	return signature
}

func (c *client) pushBlob(repository, content string) error {
	ctx, d := context.Background(), digest.FromString(content)
	if c.rand.IntN(2) == 0 {
		return c.r.PushBlob(ctx, repository, strings.NewReader(content), d)
	}
	id, err := c.r.StartUpload(ctx, repository, digest.SHA256)
	if err != nil {
		return err
	}
	_, err = c.r.FinishUpload(ctx, repository, id, chunk(content), d)
	return err
}

// deleteOne deletes one of the client's tags, or what it names.
func (c *client) deleteOne() error {
	for key, m := range c.tags {
		if c.rand.IntN(2) == 0 {
			delete(c.tags, key)
			return c.r.DeleteTag(context.Background(), key.repository, key.tag)
		}
		for other, also := range c.tags {
			if other.repository == key.repository && also.Digest == m.Digest {
				delete(c.tags, other)
			}
		}
		return c.r.DeleteManifest(context.Background(), key.repository, m.Digest)
	}
	return nil
}

// pull pulls all that the client's tags lead to.
func (c *client) pull() error {
	for key, want := range c.tags {
		got, err := c.r.Manifest(context.Background(), key.repository, storage.Reference{Tag: key.tag})
		if err != nil {
			return fmt.Errorf("%s:%s: %w", key.repository, key.tag, err)
		}
		if got.Digest != want.Digest {
			return fmt.Errorf("%s:%s is %s, want %s", key.repository, key.tag, got.Digest, want.Digest)
		}
		if err := c.pullAll(key.repository, want); err != nil {
			return fmt.Errorf("%s:%s: %w", key.repository, key.tag, err)
		}
		if err := c.checkSignature(key, want.Digest); err != nil {
			return err
		}
		if c.rand.IntN(4) == 0 {
			return nil
		}
	}
	return nil
}

// checkSignature checks that what refers to a tagged manifest is there.
func (c *client) checkSignature(key ownTag, subject digest.Digest) error {
	signature := c.signed[key]
	if signature == "" {
		return nil
	}
	referrers, err := c.r.Referrers(context.Background(), key.repository, subject, "", "", 1000)
	if err == nil && !slices.ContainsFunc(referrers, func(d imagespec.Descriptor) bool { return d.Digest == signature }) {
		err = fmt.Errorf("%s refers to %s:%s, and is gone", signature, key.repository, key.tag)
	}
	return err
}

func (c *client) pullAll(repository string, m *storage.Manifest) error {
	for _, d := range m.Required {
		if err := checkBlob(c.r.Registry, repository, d); err != nil {
			return err
		}
	}
	for _, d := range m.Children {
		child, err := c.r.Manifest(context.Background(), repository, storage.Reference{Digest: d})
		if err != nil {
			return fmt.Errorf("entry of an index: %w", err)
		}
		parsed, err := storage.ParseManifest(child.MediaType, child.Content, digest.SHA256)
		if err == nil {
			err = c.pullAll(repository, parsed)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// allow returns err unless it is one of those that are to be expected.
func allow(err error, expected ...error) error {
	for _, e := range expected {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// wantNothingElse collects what is left, and compares that with what the tags lead to.
func wantNothingElse(t *testing.T, r *registry) {
	for range 3 {
		r.age(48 * time.Hour)
		r.collect(storage.CollectOptions{Untagged: time.Second, UploadExpiry: time.Hour})
	}
	files := map[digest.Digest]bool{}
	for _, repository := range collectingRepositories {
		there, err := manifestsOf(r, repository)
		if err != nil {
			t.Fatal(err)
		}
		for d, m := range reachable(t, r, repository, there) {
			delete(there, d)
			for _, blob := range m.Required {
				r.wantBlob(repository, blob)
				files[blob] = true
			}
		}
		for d := range there {
			t.Errorf("%s@%s is left, though no tag leads to it", repository, d)
		}
	}
	r.wantFiles(slices.Collect(maps.Keys(files))...)
}

func manifestsOf(r *registry, repository string) (map[digest.Digest]*storage.Manifest, error) {
	rows, err := r.database.Read(context.Background()).Query(`
		SELECT m.media_type, m.content FROM manifests m JOIN repositories r ON r.id = m.repository WHERE r.name = $1`, repository)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[digest.Digest]*storage.Manifest{}
	for rows.Next() {
		var mediaType string
		var content []byte
		if err := rows.Scan(&mediaType, &content); err != nil {
			return nil, err
		}
		m, err := storage.ParseManifest(mediaType, content, digest.SHA256)
		if err != nil {
			return nil, err
		}
		all[m.Digest] = m
	}
	return all, rows.Err()
}

// reachable returns the manifests that tags lead to, by way of indexes and subjects.
func reachable(t *testing.T, r *registry, repository string, there map[digest.Digest]*storage.Manifest) map[digest.Digest]*storage.Manifest {
	found := map[digest.Digest]*storage.Manifest{}
	var visit func(digest.Digest)
	visit = func(d digest.Digest) {
		m := there[d]
		if m == nil || found[d] != nil {
			return
		}
		found[d] = m
		for _, child := range m.Children {
			visit(child)
		}
		for other, referring := range there {
			if referring.Subject == d {
				visit(other)
			}
		}
	}
	tags, err := r.Tags(context.Background(), repository, "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		m, err := r.manifest(repository, tag)
		if err != nil {
			t.Errorf("%s:%s: %v", repository, tag, err)
			continue
		}
		if there[m.Digest] == nil {
			t.Errorf("%s:%s names %s, which is not there", repository, tag, m.Digest)
		}
		visit(m.Digest)
	}
	return found
}
