package storage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// pulls remembers when content was last pulled until that is written down. A crash may
// lose what was not: it is only what leaves first, and how long it is kept, that depends
// on it.
type pulls struct {
	mu        sync.Mutex
	blobs     map[digest.Digest]int64
	manifests map[manifestKey]int64 // by digest
}

// pullPrecision is how much later than noted, in seconds, a manifest may have been pulled.
const pullPrecision = 60

// NotePull remembers that a blob of a copy is pulled now.
func (r *Registry) NotePull(d digest.Digest) {
	r.pulls.mu.Lock()
	defer r.pulls.mu.Unlock()
	if r.pulls.blobs == nil {
		r.pulls.blobs = make(map[digest.Digest]int64)
	}
	r.pulls.blobs[d] = now()
}

func (p *pulls) noteManifest(repository string, d digest.Digest, at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.manifests == nil {
		p.manifests = make(map[manifestKey]int64)
	}
	p.manifests[manifestKey{repository, d.String()}] = at
}

// take returns what is not written down, and forgets it.
func (p *pulls) take() (blobs map[digest.Digest]int64, manifests map[manifestKey]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	blobs, manifests = p.blobs, p.manifests
	p.blobs, p.manifests = nil, nil
	return blobs, manifests
}

// FlushPulls writes down what was pulled since it was last called. It is to be called
// now and then.
func (r *Registry) FlushPulls(ctx context.Context) error {
	blobs, manifests := r.pulls.take()
	at := make(map[digest.Digest]time.Time, len(blobs))
	for d, seconds := range blobs {
		at[d] = time.Unix(seconds, 0)
	}
	return unlessMoving(errors.Join(r.Pulled(ctx, at), r.pulledManifests(ctx, manifests)))
}

// pullsAtOnce is how many pulls are written in one transaction.
const pullsAtOnce = 100

// Pulled records when blobs of copies were last pulled.
func (r *Registry) Pulled(ctx context.Context, at map[digest.Digest]time.Time) error {
	return inSteps(at, func(some map[digest.Digest]time.Time) error {
		return r.database.Write(ctx, func(tx Tx) error {
			for d, pulled := range some {
				if _, err := tx.Exec(`UPDATE blobs SET pulled = $1 WHERE digest = $2 AND pulled < $1`, pulled.Unix(), d.String()); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (r *Registry) pulledManifests(ctx context.Context, at map[manifestKey]int64) error {
	return inSteps(at, func(some map[manifestKey]int64) error {
		return r.database.Write(ctx, func(tx Tx) error {
			for key, pulled := range some {
				if _, err := tx.Exec(`
					UPDATE manifests SET pulled = $1
					WHERE repository = (SELECT id FROM repositories WHERE name = $2) AND digest = $3 AND pulled < $1`,
					pulled, key.repository, key.reference); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// inSteps calls f with a few entries of a map at a time.
func inSteps[K comparable, V any](all map[K]V, f func(map[K]V) error) error {
	some := make(map[K]V, min(len(all), pullsAtOnce))
	for key, value := range all {
		some[key] = value
		if len(some) == pullsAtOnce {
			if err := f(some); err != nil {
				return err
			}
			clear(some)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return f(some)
}
