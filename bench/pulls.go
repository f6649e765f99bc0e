package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
)

const (
	manifestClients = 32
	blobClients     = 4
)

// measureManifests has a manifest pulled by its tag.
func measureManifests(ctx context.Context, b *bench) error {
	generate, name := findLoad()
	b.results.LoadGenerator = name
	image := pulledImage()
	path := "/v2/pull/manifest/manifests/latest"
	names := []string{registry, distribution}
	prepare := func(p *peer) error {
		err := withClient(ctx, p.address, func(c *client) error {
			return c.pushImage("pull/manifest", "latest", image)
		})
		if err == nil && p.name == registry {
			p.key, err = b.makeKey(p)
		}
		return err
	}
	measure := func(name string, p *peer, t target, round int) error {
		err := withClient(ctx, t.address, func(c *client) error { return checkManifest(c, path, image.manifest) })
		if err != nil {
			return err
		}
		before, err := cpuOf(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		rate, err := generate(ctx, t, manifestClients, b.Duration)
		if err != nil {
			return err
		}
		after, err := cpuOf(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		b.results.add("manifests", "requests/s", name, round, rate)
		b.results.add("manifests", "CPU µs/request", name, round, float64((after-before).Microseconds())/(rate*b.Duration.Seconds()))
		return nil
	}
	return b.kept(ctx, names, prepare, func(p *peer, round int) error {
		type site struct {
			name string
			target
		}
		sites := []site{{p.name, target{address: p.address, path: path}}}
		if p.name == registry {
			// The same process answers the same bytes from its configuration, and the same
			// request with an API key.
			sites = append(sites,
				site{respond, target{address: p.respond, path: path}},
				site{withKey, target{address: p.address, path: path, authorization: "Bearer " + p.key}})
		}
		if round%2 == 1 {
			slices.Reverse(sites)
		}
		for _, site := range sites {
			err := b.profiled(ctx, p, site.name+"-manifests", func() error { return measure(site.name, p, site.target, round) })
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// checkManifest makes sure that what is measured is what is meant.
func checkManifest(c *client, path string, manifest []byte) error {
	body, mediaType, err := c.fetch(path)
	if err != nil {
		return err
	}
	if mediaType != manifestType || !bytes.Equal(body, manifest) {
		return fmt.Errorf("%s answers %s as %q", path, body, mediaType)
	}
	return nil
}

// measureBlobs has one big blob pulled by several clients.
func measureBlobs(ctx context.Context, b *bench) error {
	source, err := newSource(b.dir, b.PullSize)
	if err != nil {
		return err
	}
	defer source.remove()
	blob := source.blob(0)
	path := "/v2/pull/blob/blobs/" + blob.digest
	prepare := func(p *peer) error {
		if p.name == nginx {
			return blob.writeFile(filepath.Join(p.dir, "files", filepath.FromSlash(path)))
		}
		return withClient(ctx, p.address, func(c *client) error { return blob.push(c, "pull/blob") })
	}
	return b.kept(ctx, []string{registry, nginx, distribution}, prepare, func(p *peer, round int) error {
		return b.profiled(ctx, p, "blobs", func() error {
			before, err := cpuOf(p.cmd.Process.Pid)
			if err != nil {
				return err
			}
			var total atomic.Int64
			end := time.Now().Add(b.Duration)
			took, err := parallel(ctx, blobClients, p.address, func(_ context.Context, c *client, _ int) error {
				for time.Now().Before(end) {
					size, err := c.get(path)
					if err != nil {
						return err
					}
					if size != b.PullSize {
						return fmt.Errorf("the blob has %d bytes", size)
					}
					total.Add(size)
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
			b.results.add("blobs", "MB/s", p.name, round, float64(total.Load())/1e6/took.Seconds())
			b.results.add("blobs", "CPU s/GB", p.name, round, (after-before).Seconds()/(float64(total.Load())/1e9))
			return nil
		})
	})
}

// writeFile makes a file of the blob.
func (blob blob) writeFile(name string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	source, err := os.Open(blob.file)
	if err != nil {
		return err
	}
	defer source.Close()
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, source); err != nil {
		return err
	}
	_, err = f.Write(blob.tail)
	return err
}
