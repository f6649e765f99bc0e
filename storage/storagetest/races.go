package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/race"
)

var raceTests = []registryTest{
	{"of many who create a tag exactly one does", raceCreators},
	{"of many who put several tags the tags are one's", raceSeveralTags},
	{"a tag that moves is always there, and never what it was once the move is done", raceTagAndReads},
	{"a deleted tag is not read once the delete is done", raceDeleteTagAndReads},
	{"a blob is mounted or deleted", raceMountAndDelete},
	{"a blob that is being named is not deleted", racePutAndDeleteBlob},
	{"a manifest that is being deleted is not tagged", racePutAndDeleteManifest},
	{"a repository that is being deleted keeps nothing half", raceDeleteRepository},
	{"the same blob is pushed by many", racePushes},
	{"the same upload is written by many", raceUpload},
}

var rounds = max(10, race.Rounds(30))

func raceCreators(t *testing.T, r *registry) {
	ctx := context.Background()
	const n = 8
	manifests := make([]*storage.Manifest, n)
	for i := range manifests {
		manifests[i] = r.pushImage("a", distinct(i))
	}
	for round := range rounds {
		tag := fmt.Sprintf("v%d", round)
		var all []func() error
		for i := range 2 * n { // each manifest twice
			all = append(all, func() error {
				return second(r.PutManifest(ctx, "a", manifests[i%n], storage.Put{Tags: []string{tag}, Check: createOnly}))
			})
		}
		won := map[int]bool{}
		for i, err := range together(all...) {
			if err == nil {
				won[i%n] = true
				continue
			}
			wantError(t, "PutManifest", err, errTaken)
		}
		if len(won) != 1 {
			t.Fatalf("%d creators of one tag won", len(won))
		}
		for i := range won {
			r.wantManifest("a", tag, manifests[i])
			if err := all[i](); err != nil {
				t.Errorf("the winner again: %v", err)
			}
			if err := all[i+n](); err != nil {
				t.Errorf("the winner's twin: %v", err)
			}
		}
	}
}

func raceSeveralTags(t *testing.T, r *registry) {
	m := []*storage.Manifest{r.pushImage("a", "0"), r.pushImage("a", "1")}
	for _, check := range []func(string, bool) error{nil, createOnly} {
		for round := range rounds {
			tags := []string{fmt.Sprintf("x%d-%t", round, check == nil), fmt.Sprintf("y%d-%t", round, check == nil)}
			put := func(i int) func() error {
				order := slices.Clone(tags)
				if i == 1 {
					slices.Reverse(order)
				}
				return func() error {
					return second(r.PutManifest(context.Background(), "a", m[i], storage.Put{Tags: order, Check: check}))
				}
			}
			for _, err := range together(put(0), put(1)) {
				if err != nil && (check == nil || !errors.Is(err, errTaken)) {
					t.Errorf("PutManifest: %v", err)
				}
			}
			x, errX := r.manifest("a", tags[0])
			y, errY := r.manifest("a", tags[1])
			if errX != nil || errY != nil {
				t.Fatalf("tags are not there: %v, %v", errX, errY)
			}
			if x.Digest != y.Digest {
				t.Errorf("one put left %s, the other %s", x.Digest, y.Digest)
			}
		}
	}
}

// raceTagAndReads moves a tag from manifest to manifest while many read it. A read that
// began after a move was done must give that manifest or a later one.
func raceTagAndReads(t *testing.T, r *registry) {
	n := max(20, race.Rounds(100))
	manifests := make([]*storage.Manifest, n)
	order := map[digest.Digest]int64{}
	for i := range manifests {
		manifests[i] = image(t, r.push("a", "{}"), r.push("a", distinct(i)))
		order[manifests[i].Digest] = int64(i)
	}
	r.put("a", manifests[0], "latest")
	var begun, done atomic.Int64
	finished := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-finished:
					return
				default:
				}
				oldest := done.Load()
				m, err := r.Manifest(context.Background(), "a", storage.Reference{Tag: "latest"})
				newest := begun.Load()
				if err != nil {
					t.Errorf("Manifest while the tag moves: %v", err)
					return
				}
				i, known := order[m.Digest]
				if !known || i < oldest || i > newest {
					t.Errorf("the tag is manifest %d (known: %t), want %d to %d", i, known, oldest, newest)
					return
				}
				if _, err := r.Manifest(context.Background(), "a", storage.Reference{Digest: m.Digest}); err != nil {
					t.Errorf("Manifest that the tag names: %v", err)
					return
				}
			}
		})
	}
	for i := 1; i < n; i++ {
		begun.Store(int64(i))
		r.put("a", manifests[i], "latest")
		done.Store(int64(i))
		r.wantManifest("a", "latest", manifests[i])
	}
	close(finished)
	readers.Wait()
}

func raceDeleteTagAndReads(t *testing.T, r *registry) {
	m := r.pushImage("a", "layer")
	finished := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-finished:
					return
				default:
				}
				for _, ref := range []storage.Reference{{Tag: "latest"}, {Digest: m.Digest}} {
					got, err := r.Manifest(context.Background(), "a", ref)
					if err == nil && got.Digest != m.Digest || err != nil && !errors.Is(err, storage.ErrManifestUnknown) {
						t.Errorf("Manifest: %v", err)
						return
					}
				}
			}
		})
	}
	for i := range 2 * rounds {
		r.put("a", m, "latest")
		r.wantManifest("a", "latest", m)
		if i%2 == 0 {
			if err := r.DeleteTag(context.Background(), "a", "latest"); err != nil {
				t.Errorf("DeleteTag: %v", err)
			}
			r.wantManifest("a", m.Digest.String(), m)
		} else {
			if err := r.DeleteManifest(context.Background(), "a", m.Digest); err != nil {
				t.Errorf("DeleteManifest: %v", err)
			}
			r.wantNoManifest("a", m.Digest.String(), storage.ErrManifestUnknown)
		}
		r.wantNoManifest("a", "latest", storage.ErrManifestUnknown)
	}
	close(finished)
	readers.Wait()
}

func raceMountAndDelete(t *testing.T, r *registry) {
	ctx := context.Background()
	for round := range rounds {
		d := r.push("a", distinct(round))
		to := fmt.Sprintf("b%d", round)
		errs := together(
			func() error { return r.MountBlob(ctx, to, "a", d, nil) },
			func() error { return r.DeleteBlob(ctx, "a", d) },
		)
		if errs[1] != nil {
			t.Errorf("DeleteBlob: %v", errs[1])
		}
		r.wantNoBlob("a", d)
		if errs[0] == nil {
			r.wantBlob(to, d)
			continue
		}
		wantError(t, "MountBlob", errs[0], storage.ErrBlobUnknown)
		r.wantNoBlob(to, d)
	}
}

func racePutAndDeleteBlob(t *testing.T, r *registry) {
	ctx := context.Background()
	for round := range rounds {
		m := r.pushImage("a", distinct(round))
		layer := digest.FromString(distinct(round))
		errs := together(
			func() error { return second(r.PutManifest(ctx, "a", m, storage.Put{Tags: []string{"latest"}})) },
			func() error { return r.DeleteBlob(ctx, "a", layer) },
		)
		switch {
		case errs[0] == nil:
			wantError(t, "DeleteBlob of what a manifest names", errs[1], storage.ErrBlobReferenced)
			r.wantManifest("a", "latest", m)
			r.wantBlob("a", layer)
		case errs[1] == nil:
			wantError(t, "PutManifest that names a deleted blob", errs[0], storage.ErrManifestBlobUnknown)
			r.wantNoManifest("a", m.Digest.String(), storage.ErrManifestUnknown)
			r.wantNoBlob("a", layer)
		default:
			t.Errorf("both were refused: %v, %v", errs[0], errs[1])
		}
	}
}

func racePutAndDeleteManifest(t *testing.T, r *registry) {
	ctx := context.Background()
	m := r.pushImage("a", "layer")
	for round := range rounds {
		r.put("a", m)
		tag := fmt.Sprintf("v%d", round)
		for _, err := range together(
			func() error { return second(r.PutManifest(ctx, "a", m, storage.Put{Tags: []string{tag}})) },
			func() error { return r.DeleteManifest(ctx, "a", m.Digest) },
		) {
			if err != nil {
				t.Error(err)
			}
		}
		_, byTag := r.manifest("a", tag)
		_, byDigest := r.manifest("a", m.Digest.String())
		if (byTag == nil) != (byDigest == nil) {
			t.Errorf("by tag: %v, by digest: %v", byTag, byDigest)
		}
		tags, err := r.Tags(ctx, "a", "", 100)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(tags, tag) != (byTag == nil) {
			t.Errorf("tags %v list %s, reading it: %v", tags, tag, byTag)
		}
	}
}

func raceDeleteRepository(t *testing.T, r *registry) {
	ctx := context.Background()
	for round := range rounds {
		m := r.pushImage("a", distinct(round))
		errs := together(
			func() error { return second(r.PutManifest(ctx, "a", m, storage.Put{Tags: []string{"latest"}})) },
			func() error { return r.DeleteRepository(ctx, "a") },
		)
		if errs[1] != nil {
			t.Errorf("DeleteRepository: %v", errs[1])
		}
		if errs[0] != nil {
			wantError(t, "PutManifest", errs[0], storage.ErrManifestBlobUnknown)
		}
		if _, err := r.manifest("a", "latest"); err == nil {
			t.Error("a tag outlived its repository")
		}
		r.wantNoManifest("a", m.Digest.String(), storage.ErrManifestUnknown)
		r.wantNoBlob("a", digest.FromString(distinct(round)))
	}
}

func racePushes(t *testing.T, r *registry) {
	ctx := context.Background()
	for round := range rounds / 3 {
		content := strings.Repeat(distinct(round), 10_000)
		d := digest.FromString(content)
		var all []func() error
		for i := range 8 {
			repository := fmt.Sprintf("r%d", i/2)
			all = append(all, func() error {
				if err := r.PushBlob(ctx, repository, strings.NewReader(content), d); err != nil {
					return err
				}
				return checkBlob(r.Registry, repository, d)
			}, func() error {
				id, err := r.StartUpload(ctx, repository, digest.SHA256)
				if err != nil {
					return err
				}
				if _, err := r.AppendUpload(ctx, repository, id, chunk(content[:100])); err != nil {
					return err
				}
				if _, err := r.FinishUpload(ctx, repository, id, chunk(content[100:]), d); err != nil {
					return err
				}
				return checkBlob(r.Registry, repository, d)
			})
		}
		for _, err := range together(all...) {
			if err != nil {
				t.Error(err)
			}
		}
	}
	for id, err := range r.blobs.Uploads(ctx) {
		t.Errorf("upload %s still takes room, %v", id, err)
	}
}

// raceUpload sends pieces of one upload from several requests at once, each of which
// asks where it stands and sends the next piece, as a client does that has lost its
// connection.
func raceUpload(t *testing.T, r *registry) {
	ctx := context.Background()
	content := strings.Repeat("0123456789", 1000)
	d := digest.FromString(content)
	for range rounds / 10 {
		id := r.begin("a")
		finished := make(chan struct{})
		var once sync.Once
		send := func() error {
			for {
				select {
				case <-finished:
					return nil
				default:
				}
				size, err := r.UploadSize(ctx, "a", id)
				if errors.Is(err, storage.ErrUploadUnknown) {
					return nil // another request has finished it
				}
				if err != nil {
					return err
				}
				if size > int64(len(content)) {
					return fmt.Errorf("upload has %d bytes of %d", size, len(content))
				}
				end := min(size+499, int64(len(content)))
				piece := storage.Chunk{Body: interruptible(content[size:end]), Start: size, Size: end - size}
				if size < int64(len(content)) {
					_, err = r.AppendUpload(ctx, "a", id, piece)
				} else if _, err = r.FinishUpload(ctx, "a", id, piece, d); err == nil {
					once.Do(func() { close(finished) })
					return nil
				}
				for _, expected := range []error{storage.ErrRangeInvalid, storage.ErrUploadUnknown, errInterrupted} {
					if errors.Is(err, expected) {
						err = nil
					}
				}
				if err != nil {
					return err
				}
			}
		}
		for _, err := range together(send, send, send) {
			if err != nil {
				t.Error(err)
			}
		}
		r.wantBlob("a", d)
		r.wantNoUpload("a", id)
		if err := r.DeleteBlob(ctx, "a", d); err != nil {
			t.Error(err)
		}
	}
}

// interruptible is a request's content that comes in small pieces, between which
// Interrupt ends it.
func interruptible(content string) storage.Body {
	return &pieces{Reader: strings.NewReader(content)}
}

type pieces struct {
	io.Reader
	interrupted atomic.Bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.interrupted.Load() {
		return 0, errInterrupted
	}
	return p.Reader.Read(b[:min(len(b), 100)])
}

func (p *pieces) Interrupt() { p.interrupted.Store(true) }
