package storage

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxKeys is how many keys a generation remembers, about 500 bytes each.
const maxKeys = 10_000

// keyGeneration is what is remembered of API keys until any of them, or its owner,
// changes: then all is forgotten at once, which happens seldom, so that to read, which
// every request does, takes no lock. It is exact: whoever changes something begins
// another generation after the commit and before the change is acknowledged, and what
// was read from the database before that goes to the old one.
type keyGeneration struct {
	keys sync.Map // [32]byte, a key's hash, or string, its id → *APIKey
	size atomic.Int64
}

// forgetKeys begins another generation.
func (a *Accounts) forgetKeys() {
	if !a.database.Shared() {
		a.keys.Store(new(keyGeneration))
	}
}

func (g *keyGeneration) get(by any) *APIKey {
	if g == nil {
		return nil
	}
	key, _ := g.keys.Load(by)
	found, _ := key.(*APIKey)
	return found
}

// put remembers a key, and reports whether that was one too many.
func (g *keyGeneration) put(by any, key *APIKey) (full bool) {
	if g == nil {
		return false
	}
	_, known := g.keys.LoadOrStore(by, key)
	return !known && g.size.Add(1) >= maxKeys
}

// written is the last use of a key whose entry was taken out of the map.
const written = -1

// KeyUsed remembers that a key was used. That is kept in memory until FlushUsed.
func (a *Accounts) KeyUsed(id string, at time.Time) {
	seconds := at.Unix()
	for {
		entry, ok := a.used.Load(id)
		if !ok {
			entry, _ = a.used.LoadOrStore(id, new(atomic.Int64))
		}
		last := entry.(*atomic.Int64)
		switch before := last.Load(); {
		case before == written:
			a.used.CompareAndDelete(id, entry)
		case before >= seconds || last.CompareAndSwap(before, seconds):
			return
		}
	}
}

// FlushUsed writes when keys were used, which other processes that share the database
// know from then on.
func (a *Accounts) FlushUsed(ctx context.Context) error {
	used := a.unwritten()
	if len(used) == 0 {
		return nil
	}
	err := a.database.Write(ctx, func(tx Tx) error {
		// In order, so that of processes that do so at once none waits for another that
		// waits for it.
		for _, id := range slices.Sorted(maps.Keys(used)) {
			if _, err := tx.Exec(`UPDATE api_keys SET used = $1 WHERE id = $2 AND used < $1`, used[id], id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return unlessMoving(err)
	}
	for id, seconds := range used {
		entry, _ := a.used.Load(id)
		// What was used again since stays.
		if last, ok := entry.(*atomic.Int64); ok && last.CompareAndSwap(seconds, written) {
			a.used.CompareAndDelete(id, entry)
		}
	}
	return nil
}

// unwritten returns when keys were used that FlushUsed has not written. To be called
// before the database is read, so that what is written in between is not missed.
func (a *Accounts) unwritten() map[string]int64 {
	used := map[string]int64{}
	a.used.Range(func(id, entry any) bool {
		if seconds := entry.(*atomic.Int64).Load(); seconds > 0 {
			used[id.(string)] = seconds
		}
		return true
	})
	return used
}

// use moves a key's last use to a later one.
func (k *APIKey) use(seconds int64) {
	if at := time.Unix(seconds, 0); seconds > 0 && at.After(k.LastUsed) {
		k.LastUsed = at
	}
}
