package storage

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	cacheBytes      = 16 << 20 // of manifests kept in memory
	cacheEntryBytes = 256 << 10
	// cacheOverhead is about what an entry takes besides the manifest's bytes.
	cacheOverhead = 512
)

type manifestKey struct{ repository, reference string }

// manifestCache remembers what tags and digests of repositories stand for, least
// recently used first out. It is exact: whoever changes a reference forgets it after
// the commit and before the change is acknowledged, and what was read from the
// database before that is not remembered after it.
type manifestCache struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[manifestKey, *cachedManifest]
	bytes int
	epoch uint64 // counts calls of forget
}

// cachedManifest is a manifest in memory.
type cachedManifest struct {
	*Manifest
	pulled int64 // when that it is pulled was last noted
}

func newManifestCache() *manifestCache {
	c := new(manifestCache)
	lru, err := simplelru.NewLRU(math.MaxInt32, func(_ manifestKey, m *cachedManifest) {
		c.bytes -= len(m.Content) + cacheOverhead
	})
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	c.lru = lru
	return c
}

// get returns what is remembered, nil if it is not, and whether that it is pulled at a
// time is to be noted.
func (c *manifestCache) get(repository, reference string, at int64) (_ *Manifest, note bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.lru.Get(manifestKey{repository, reference})
	if !ok {
		return nil, false
	}
	if note = at-m.pulled >= pullPrecision; note {
		m.pulled = at
	}
	return m.Manifest, note
}

// epochNow is to be asked before a manifest is read that may be put.
func (c *manifestCache) epochNow() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// put remembers m, whose pull at a time is noted, unless anything was forgotten since
// epoch.
func (c *manifestCache) put(repository, reference string, m *Manifest, epoch uint64, at int64) {
	if len(m.Content) > cacheEntryBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := manifestKey{repository, reference}
	if c.epoch != epoch || c.lru.Contains(key) {
		return
	}
	c.lru.Add(key, &cachedManifest{m, at})
	c.bytes += len(m.Content) + cacheOverhead
	for c.bytes > cacheBytes {
		c.lru.RemoveOldest()
	}
}

func (c *manifestCache) forget(repository string, references ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, reference := range references {
		c.lru.Remove(manifestKey{repository, reference})
	}
}

// forgetAll is for when anything may have changed.
func (c *manifestCache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	c.lru.Purge()
}
