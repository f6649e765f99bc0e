package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"
)

const (
	pushClients  = 2
	blobsPushed  = 4
	imageClients = 8
)

// tailSize is how many bytes at the end of a big blob are its own. What is before them
// is one random file for all, so that neither disk nor memory has to hold them all, and
// the digest of each is known at once.
const tailSize = 32

// source makes big blobs.
type source struct {
	file string
	size int64     // of the file
	hash hash.Hash // of the file
}

// blob is a big blob: a file and a few bytes after it.
type blob struct {
	file   string
	size   int64 // of the file
	tail   []byte
	digest string
}

// newSource returns a source of blobs of a size; remove deletes its file.
func newSource(dir string, size int64) (_ *source, err error) {
	f, err := os.CreateTemp(dir, "random-")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &source{file: f.Name(), size: size - tailSize, hash: sha256.New()}
	w := bufio.NewWriterSize(io.MultiWriter(f, s.hash), 1<<20)
	if _, err := io.CopyN(w, rand.Reader, s.size); err != nil {
		return nil, err
	}
	return s, w.Flush()
}

func (s *source) remove() { os.Remove(s.file) }

// blob returns a blob, of which each number has its own.
func (s *source) blob(number uint64) blob {
	tail := fmt.Appendf(nil, "%0*d", tailSize, number)
	h, err := s.hash.(hash.Cloner).Clone()
	if err != nil {
		panic(err) // SHA-256 can be cloned
	}
	h.Write(tail)
	return blob{file: s.file, size: s.size, tail: tail, digest: "sha256:" + hex.EncodeToString(h.Sum(nil))}
}

func (blob blob) push(c *client, repository string) error {
	f, err := os.Open(blob.file)
	if err != nil {
		return err
	}
	defer f.Close()
	return c.pushBlob(repository, blob.digest, content{file: f, fileSize: blob.size, bytes: blob.tail})
}

// measurePushes has big blobs pushed to a registry without any.
func measurePushes(ctx context.Context, b *bench) error {
	source, err := newSource(b.dir, b.PushSize)
	if err != nil {
		return err
	}
	defer source.remove()
	return b.fresh(ctx, []string{registry, distribution}, func(p *peer, round int) error {
		settle(ctx)
		return b.profiled(ctx, p, "pushes", func() error {
			before, err := cpuOf(p.cmd.Process.Pid)
			if err != nil {
				return err
			}
			took, err := parallel(ctx, pushClients, p.address, func(_ context.Context, c *client, i int) error {
				for n := i; n < blobsPushed; n += pushClients {
					if err := source.blob(uint64(n)).push(c, "push/blobs"); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			after, err := cpuOf(p.cmd.Process.Pid)
			if err != nil {
				return err
			}
			peak, err := memoryOf(p.cmd.Process.Pid, "VmHWM")
			if err != nil {
				return err
			}
			bytes := float64(blobsPushed * b.PushSize)
			b.results.add("pushes", "MB/s", p.name, round, bytes/1e6/took.Seconds())
			b.results.add("pushes", "CPU s/GB", p.name, round, (after-before).Seconds()/(bytes/1e9))
			b.results.add("pushes", "peak MB", p.name, round, float64(peak)/1e6)
			return nil
		})
	})
}

// measureImages has tiny images pushed, all of them different, for a while.
func measureImages(ctx context.Context, b *bench) error {
	var ids atomic.Uint64
	ids.Store(pullID)
	return b.fresh(ctx, []string{registry, distribution}, func(p *peer, round int) error {
		settle(ctx)
		return b.profiled(ctx, p, "images", func() error {
			before, err := cpuOf(p.cmd.Process.Pid)
			if err != nil {
				return err
			}
			var pushed atomic.Int64
			end := time.Now().Add(b.Duration)
			took, err := parallel(ctx, imageClients, p.address, func(_ context.Context, c *client, i int) error {
				repository := fmt.Sprintf("push/images-%d", i)
				for time.Now().Before(end) {
					id := ids.Add(1)
					if err := c.pushImage(repository, fmt.Sprintf("v%d", id), newImage(id, 1000)); err != nil {
						return err
					}
					pushed.Add(1)
				}
				return nil
			})
			if err != nil {
				return err
			}
			after, err := cpuOf(p.cmd.Process.Pid)
			if err != nil {
				return err
			}
			b.results.add("images", "images/s", p.name, round, float64(pushed.Load())/took.Seconds())
			b.results.add("images", "CPU ms/image", p.name, round, (after-before).Seconds()*1e3/float64(pushed.Load()))
			return nil
		})
	})
}

// settle lets the disk finish what came before, so that a peer does not pay for the one
// that was measured before it.
func settle(ctx context.Context) {
	_ = exec.CommandContext(ctx, "sync").Run() // if it cannot, figures are only noisier
}
