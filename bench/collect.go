package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// collectConfig has what is garbage be so at once, and collected when a command says so.
const collectConfig = `	registry {
		gc {
			interval 8760h
			delay 1s
			untagged 1s
		}
	}
`

// blobsPerManifest is how many blobs each manifest that is collected names, each its own.
const blobsPerManifest = 10

// quiet is what a registry is compared with that collects: the same one, while it does not.
const quiet = "not collecting"

// measureCollection has tiny images pushed to a registry that is full of garbage, at
// first while it lies there, and then while it is collected.
func measureCollection(ctx context.Context, b *bench) error {
	b.global, b.seed = collectConfig, func(dir string) error { return seedGarbage(ctx, dir, b.Garbage) }
	defer func() { b.global, b.seed = "", nil }()
	var ids atomic.Uint64
	ids.Store(pullID)
	return b.fresh(ctx, []string{registry}, func(p *peer, round int) error {
		settle(ctx)
		until := time.Now().Add(2 * b.Duration)
		idle, err := pushUntil(ctx, p, &ids, func() bool { return time.Now().After(until) })
		if err != nil {
			return err
		}
		return b.profiled(ctx, p, "collection", func() error {
			var collected atomic.Bool
			var failed error
			var collecting sync.WaitGroup
			began := time.Now()
			collecting.Go(func() {
				defer collected.Store(true)
				failed = b.collectAll(ctx, p)
			})
			busy, err := pushUntil(ctx, p, &ids, collected.Load)
			collecting.Wait()
			if err := errors.Join(err, failed); err != nil {
				return err
			}
			for metric, percent := range map[string]float64{"p50 ms": 50, "p99 ms": 99} {
				b.results.add("collection", metric, p.name, round, percentile(milliseconds(busy), percent))
				b.results.add("collection", metric, quiet, round, percentile(milliseconds(idle), percent))
			}
			b.results.add("collection", "s", p.name, round, time.Since(began).Seconds())
			return nil
		})
	})
}

// pushUntil has images pushed by several clients, each to a repository of its own, and
// returns how long each push took.
func pushUntil(ctx context.Context, p *peer, ids *atomic.Uint64, done func() bool) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	_, err := parallel(ctx, imageClients, p.address, func(ctx context.Context, c *client, i int) error {
		repository := fmt.Sprintf("push/images-%d", i)
		var mine []time.Duration
		for !done() && ctx.Err() == nil {
			id := ids.Add(1)
			began := time.Now()
			if err := c.pushImage(repository, fmt.Sprintf("v%d", id), newImage(id, 1000)); err != nil {
				return err
			}
			mine = append(mine, time.Since(began))
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, mine...)
		return nil
	})
	return all, err
}

// collectAll collects until there is no garbage left: first the manifests go, and when
// their blobs have been without one for the delay, those.
func (b *bench) collectAll(ctx context.Context, p *peer) error {
	var manifests, blobs int
	for manifests < b.Garbage || blobs < b.Garbage*blobsPerManifest {
		cmd, err := caddyCommand(b, p, "registry", "gc")
		if err != nil {
			return err
		}
		output, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("collecting: %w", err)
		}
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		var m, n int
		text := strings.ReplaceAll(lines[len(lines)-1], ",", "")
		if _, err := fmt.Sscanf(text, "removed 0 tags %d manifests %d blobs", &m, &n); err != nil {
			return fmt.Errorf("collecting: %q: %w", text, err)
		}
		manifests, blobs = manifests+m, blobs+n
		select {
		case <-time.After(2 * time.Second): // the delay, and a second for the clock to be past it
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// seedGarbage writes manifests that no tag names, and facts of their blobs, into the
// database of a registry that is not running.
func seedGarbage(ctx context.Context, dir string, count int) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	database, err := sqlite.Open(ctx, filepath.Join(dir, "registry.db"), sqlite.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, database.Close()) }()
	// A server that collected a moment ago does not when it starts.
	err = database.Write(ctx, func(tx storage.Tx) error {
		_, err := tx.Exec(`INSERT INTO runs (name, ended, result) VALUES ($1, $2, '{}')`, string(storage.RunCollect), time.Now().Unix())
		return err
	})
	if err != nil {
		return err
	}
	const step = 1000
	for from := 0; from < count; from += step {
		err := database.Write(ctx, func(tx storage.Tx) error {
			for i := from; i < min(from+step, count); i++ {
				if err := seedManifest(tx, i); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// seedManifest writes one manifest of a day ago and its blobs; every 1,000 of them make a
// repository.
func seedManifest(tx storage.Tx, i int) error {
	at := time.Now().Add(-24 * time.Hour).Unix()
	repository := i/1000 + 1
	if i%1000 == 0 {
		if _, err := tx.Exec(`INSERT INTO repositories (id, name, created) VALUES ($1, $2, $3)`, repository, fmt.Sprintf("garbage/%d", repository), at); err != nil {
			return err
		}
	}
	content := newImage(uint64(i)+1<<32, 0).manifest
	manifest := i + 1
	_, err := tx.Exec(`
		INSERT INTO manifests (id, repository, digest, media_type, size, artifact_type, annotations, created, untagged, content)
		VALUES ($1, $2, $3, $4, $5, '', '', $6, $7, $8)`, manifest, repository, digestOf(content), manifestType, len(content), at, at, content)
	if err != nil {
		return err
	}
	for n := range blobsPerManifest {
		blob := i*blobsPerManifest + n + 1
		digest := digestOf(fmt.Append(nil, "garbage ", blob))
		if _, err := tx.Exec(`INSERT INTO blobs (id, digest, size, created) VALUES ($1, $2, 1, $3)`, blob, digest, at); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO repository_blobs (repository, blob, created) VALUES ($1, $2, $3)`, repository, blob, at); err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO manifest_references (repository, digest, manifest, size) VALUES ($1, $2, $3, 1)`, repository, digest, manifest); err != nil {
			return err
		}
	}
	return nil
}
