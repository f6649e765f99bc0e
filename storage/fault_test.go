//go:build unix

package storage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/internal/faultdisk"
	"github.com/eblume/caddy-registry/storage/internal/race"
)

// TestFault lets each operation of a push fail in turn: with a disk that is full or
// broken, for a moment or until somebody sees to it.
func TestFault(t *testing.T) {
	empty := emptyRegistry(t)
	total := operations(t, empty())
	for _, test := range []struct {
		name string
		err  error
		once bool
	}{
		{"full", syscall.ENOSPC, false},
		{"full for a moment", syscall.ENOSPC, true},
		{"broken", syscall.EIO, false},
		{"broken for a moment", syscall.EIO, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var failed int
			var tried int
			for n := 1; n <= total && !t.Failed(); n += race.Stride() {
				tried++
				p := openPush(t, empty(), fmt.Sprintf("operation %d", n))
				if p.fails(n, test.err, test.once) {
					failed++
				}
			}
			if failed < tried/2 {
				t.Errorf("only %d of %d operations failed the push", failed, tried)
			}
		})
	}
}

// TestFaultThenCrash ends the process, or the power, right after a push failed.
func TestFaultThenCrash(t *testing.T) {
	empty := emptyRegistry(t)
	total := operations(t, empty())
	for _, once := range []bool{false, true} {
		for _, survival := range faultdisk.Survivals {
			t.Run(fmt.Sprintf("once %t, %s survives", once, survival), func(t *testing.T) {
				t.Parallel()
				for n := 1; n <= total; n += race.Stride() {
					p := openPush(t, empty(), fmt.Sprintf("operation %d", n))
					if once {
						p.disk.FailOnce(n, syscall.EIO)
					} else {
						p.disk.Fail(n, syscall.EIO)
					}
					err := p.push()
					p.disk.PowerOff(0)
					p.Close() // as good as it can
					after := p.disk.AfterPowerLoss(survival, rand.New(rand.NewPCG(uint64(n), 0)))
					r, openErr := openFaultDisk(t, after, nil)
					if openErr != nil {
						p.errorf("opening it again: %v", openErr)
						continue
					}
					p.diskRegistry = r
					if err == nil {
						p.pushed()
					} else {
						p.readable()
					}
					if err := p.push(); err != nil {
						p.errorf("the push again: %v", err)
					}
					p.pushed()
					p.close()
				}
			})
		}
	}
}

// operations returns how many a push is.
func operations(t *testing.T, disk *faultdisk.Disk) int {
	t.Helper()
	p := openPush(t, disk, "a push to a disk in order")
	before := disk.Operations()
	if err := p.push(); err != nil {
		p.errorf("%v", err)
	}
	p.pushed()
	p.close()
	return disk.Operations() - before
}

// push is a push to a registry that holds another image already.
type push struct {
	*diskRegistry
	t      *testing.T
	what   string
	upload string
}

func (p *push) errorf(format string, args ...any) {
	p.t.Helper()
	p.t.Errorf("%s: %s", p.what, fmt.Sprintf(format, args...))
}

var (
	oldLayer = strings.Repeat("an old layer ", 1000)
	newLayer = strings.Repeat("a new layer ", 1000)
	oldImage = imageOf(digest.FromString("{}"), digest.FromString(oldLayer))
	newImage = imageOf(digest.FromString(`{"a":1}`), digest.FromString(newLayer))
)

// openPush opens a registry and pushes the old image to it.
func openPush(t *testing.T, disk *faultdisk.Disk, what string) *push {
	t.Helper()
	r, err := openFaultDisk(t, disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, content := range []string{"{}", oldLayer} {
		if err := r.PushBlob(ctx, "a", strings.NewReader(content), digest.FromString(content)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.PutManifest(ctx, "a", oldImage, storage.Put{Tags: []string{"latest"}}); err != nil {
		t.Fatal(err)
	}
	return &push{t: t, diskRegistry: r, what: what}
}

// fails pushes while the n-th operation fails, checks what that leaves, and reports
// whether it failed at all.
func (p *push) fails(n int, fault error, once bool) bool {
	p.t.Helper()
	ctx := context.Background()
	if once {
		p.disk.FailOnce(n, fault)
	} else {
		p.disk.Fail(n, fault)
	}
	full := errors.Is(fault, syscall.ENOSPC)
	err := p.push()
	if err == nil {
		p.disk.Heal()
		p.pushed()
		p.close()
		return false
	}
	if full != errors.Is(err, storage.ErrFull) {
		p.errorf("wrong error: %v", err)
	}
	if full {
		p.unharmed()
		p.noUpload()
		if !once {
			if err := p.push(); !errors.Is(err, storage.ErrFull) {
				p.errorf("a push to a disk that is still full: %v", err)
			}
			p.unharmed()
		}
	}
	p.disk.Heal()
	if full {
		p.noUpload()
	}
	p.unharmed()
	if err := p.push(); err != nil {
		p.errorf("a push once the disk is in order: %v", err)
	}
	p.pushed()
	p.close()

	after, err := openFaultDisk(p.t, p.disk, nil)
	if err != nil {
		p.errorf("opening it again: %v", err)
		return true
	}
	p.diskRegistry = after
	p.pushed()
	if err := p.ExpireUploads(ctx, time.Now().Add(time.Hour)); err != nil {
		p.errorf("ExpireUploads: %v", err)
	}
	stats, err := p.Stats(ctx)
	want := storage.Stats{Repositories: 1, Manifests: 2, Tags: 1, Blobs: 4, BlobBytes: int64(2 + len(oldLayer) + 7 + len(newLayer))}
	if err != nil || stats != want {
		p.errorf("Stats = %+v, %v, want %+v", stats, err, want)
	}
	p.noUpload()
	p.close()
	return true
}

func (p *push) close() {
	p.t.Helper()
	if err := p.Close(); err != nil {
		p.errorf("Close: %v", err)
	}
}

// push pushes the new image: its layer in two chunks, its config at once.
func (p *push) push() (err error) {
	ctx := context.Background()
	chunk := func(from, to int) storage.Chunk {
		return storage.Chunk{Body: idleBody{strings.NewReader(newLayer[from:to])}, Start: int64(from), Size: int64(to - from)}
	}
	if p.upload, err = p.StartUpload(ctx, "a", digest.SHA256); err != nil {
		return fmt.Errorf("StartUpload: %w", err)
	}
	if _, err := p.AppendUpload(ctx, "a", p.upload, chunk(0, 5000)); err != nil {
		return fmt.Errorf("AppendUpload: %w", err)
	}
	if _, err := p.FinishUpload(ctx, "a", p.upload, chunk(5000, len(newLayer)), digest.FromString(newLayer)); err != nil {
		return fmt.Errorf("FinishUpload: %w", err)
	}
	if err := p.PushBlob(ctx, "a", strings.NewReader(`{"a":1}`), digest.FromString(`{"a":1}`)); err != nil {
		return fmt.Errorf("PushBlob: %w", err)
	}
	if _, err := p.PutManifest(ctx, "a", newImage, storage.Put{Tags: []string{"latest"}}); err != nil {
		return fmt.Errorf("PutManifest: %w", err)
	}
	return nil
}

// unharmed checks that the old image is read as ever, and nothing half of the new one.
func (p *push) unharmed() {
	p.t.Helper()
	ctx := context.Background()
	m, err := p.Manifest(ctx, "a", storage.Reference{Tag: "latest"})
	if err != nil || m.Digest != oldImage.Digest {
		p.errorf("the tag is not the old image: %v", err)
	}
	if _, err := p.Manifest(ctx, "a", storage.Reference{Digest: newImage.Digest}); !errors.Is(err, storage.ErrManifestUnknown) {
		p.errorf("the new manifest: %v", err)
	}
	p.readable()
}

// readable checks that the old image is whole, whatever the tag is, and nothing is half.
func (p *push) readable() {
	p.t.Helper()
	ctx := context.Background()
	if _, err := p.Manifest(ctx, "a", storage.Reference{Digest: oldImage.Digest}); err != nil {
		p.errorf("the old manifest: %v", err)
	}
	m, err := p.Manifest(ctx, "a", storage.Reference{Tag: "latest"})
	if err != nil {
		p.errorf("the tag: %v", err)
	} else if m.Digest == newImage.Digest {
		p.pushed()
	}
	c := client{repository: "a"}
	for _, d := range oldImage.Required {
		if err := c.checkBlob(p.Registry, d); err != nil {
			p.errorf("%v", err)
		}
	}
	for _, d := range newImage.Required {
		if err := c.checkBlob(p.Registry, d); err != nil && !errors.Is(err, storage.ErrBlobUnknown) {
			p.errorf("%v", err)
		}
	}
	p.consistent()
}

// pushed checks that the new image is there.
func (p *push) pushed() {
	p.t.Helper()
	m, err := p.Manifest(context.Background(), "a", storage.Reference{Tag: "latest"})
	if err != nil || m.Digest != newImage.Digest {
		p.errorf("the tag is not the new image: %v", err)
	}
	c := client{repository: "a"}
	for _, d := range newImage.Required {
		if err := c.checkBlob(p.Registry, d); err != nil {
			p.errorf("%v", err)
		}
	}
	p.consistent()
}

func (p *push) consistent() {
	p.t.Helper()
	for _, err := range append(checkFacts(p.diskRegistry), checkFiles(p.disk)...) {
		p.errorf("%v", err)
	}
}

// noUpload checks that no bytes of uploads are kept, nor said to be.
func (p *push) noUpload() {
	p.t.Helper()
	ctx := context.Background()
	if size, err := p.UploadSize(ctx, "a", p.upload); err == nil && size > 0 {
		p.errorf("the upload goes on at %d", size)
	}
	for id, err := range p.blobs.Uploads(ctx) {
		if err != nil {
			p.errorf("Uploads: %v", err)
		}
		if content, err := readFile(p.disk, "/registry/uploads/"+id); err != nil || len(content) > 0 {
			p.errorf("upload %s takes %d bytes, %v", id, len(content), err)
		}
	}
}
