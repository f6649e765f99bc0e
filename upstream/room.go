package upstream

import (
	"context"
	"log/slog"
	"sync"

	"github.com/eblume/caddy-registry/storage"
)

// roomStep is how many bytes room is made for at a time.
const roomStep = 32 << 20

// Room is what a cache leaves free of the disk: it evicts first, and then keeps nothing
// new.
type Room struct {
	Registry *storage.Registry
	// MinFree returns how many bytes of a disk of the given size are to stay free.
	MinFree func(total int64) int64
	Log     *slog.Logger

	mu sync.Mutex // held while evicting: those who wait may find that there is room
}

// make reports whether n more bytes can be kept, once it has evicted what it takes. If
// that cannot be told, they can.
func (r *Room) make(ctx context.Context, n int64) bool {
	missing, ok := r.missing(n)
	if !ok || missing <= 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if missing, _ = r.missing(n); missing <= 0 {
		return true
	}
	if err := r.Registry.FlushPulls(ctx); err != nil {
		r.Log.Error("writing down what was pulled", "error", err)
	}
	if err := r.evict(ctx, missing, n); err != nil {
		r.Log.Error("evicting", "error", err)
	}
	missing, _ = r.missing(n)
	return missing <= 0
}

// evict removes blobs until missing bytes are free, which n more are to take. If they
// would not fit into an empty cache either, only what must be free without them is freed.
func (r *Room) evict(ctx context.Context, missing, n int64) error {
	evictable, err := r.Registry.Evictable(ctx)
	if err == nil && evictable < missing {
		if err = r.Registry.DiscardFetches(ctx); err == nil {
			missing, _ = r.missing(n)
		}
	}
	if err != nil {
		return err
	}
	if evictable < missing {
		missing -= n
	}
	if missing <= 0 || evictable == 0 {
		return nil
	}
	freed, err := r.Registry.Evict(ctx, missing)
	if freed > 0 {
		r.Log.Info("evicted blobs, least recently pulled first, since the disk is nearly full", "bytes", freed)
	}
	return err
}

// missing returns how many bytes must go so that n can be kept.
func (r *Room) missing(n int64) (_ int64, ok bool) {
	space, ok, err := r.Registry.Space()
	if err != nil {
		r.Log.Error("asking how full the disk is", "error", err)
		return 0, false
	}
	return r.MinFree(space.Total) + n - space.Free, ok
}
