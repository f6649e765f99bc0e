package upstream

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/eblume/caddy-registry/storage"
)

// roomStep is how many bytes room is made for at a time.
const roomStep = 32 << 20

// Room is what a cache may take, of the disk and by its size: it evicts first, and then
// keeps nothing new.
type Room struct {
	Registry *storage.Registry
	// Transfers are those that may fill it.
	Transfers *Transfers
	// MinFree returns how many bytes of a disk of the given size are to stay free.
	MinFree func(total int64) int64
	// MaxSize is how many bytes the blobs may have together that only copies hold; 0: any.
	MaxSize int64
	// MaxIdle is how long is kept what is not pulled; 0: for ever.
	MaxIdle time.Duration
	// Keep reports whether what a repository holds is never evicted. It may be nil.
	Keep func(repository string) bool
	Log  *slog.Logger

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
	evictable, err := r.Registry.CopiedBytes(ctx)
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
	return r.free(ctx, missing, "since the disk is nearly full")
}

// free removes n bytes of blobs, if there are as many that may go.
func (r *Room) free(ctx context.Context, n int64, why string) error {
	freed, err := r.Registry.Evict(ctx, n, r.Keep)
	if freed > 0 {
		r.Log.Info("evicted blobs, least recently pulled first, "+why, "bytes", freed)
	}
	return err
}

// reserve reports whether a blob fits that has, or will have, so many bytes of which some
// are reserved already, once it has evicted what that takes. If so they are reserved.
func (r *Room) reserve(ctx context.Context, total, had int64) bool {
	if r.MaxSize == 0 || total <= had {
		return true
	}
	ts := r.Transfers
	ts.reserving.Lock()
	defer ts.reserving.Unlock()
	if ts.reserved-had+total > r.MaxSize {
		return false // nor would it fit if all else were evicted
	}
	if r.over(ctx, total-had) > 0 {
		if err := r.makeSmaller(ctx, total-had); err != nil {
			r.Log.Error("evicting", "error", err)
		}
		if r.over(ctx, total-had) > 0 {
			return false
		}
	}
	ts.reserved += total - had
	return true
}

// over returns how many bytes there are too many if n more come.
func (r *Room) over(ctx context.Context, n int64) int64 {
	copied, err := r.Registry.CopiedBytes(ctx)
	if err != nil {
		r.Log.Error("asking how much is cached", "error", err)
		return 0
	}
	return copied + r.Transfers.reserved + n - r.MaxSize
}

// makeSmaller evicts what is too much if n more bytes come, unless another server of the
// same registry just did.
func (r *Room) makeSmaller(ctx context.Context, n int64) error {
	release, err := r.Registry.HoldEviction(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := r.Registry.FlushPulls(ctx); err != nil {
		return err
	}
	return r.free(ctx, r.over(ctx, n), "since the cache is full")
}

// Tend evicts what is too much, as there may be with another configuration or when
// private images are deleted that shared it, and what is not pulled any more.
func (r *Room) Tend(ctx context.Context) error {
	if r.MaxSize > 0 {
		if err := r.tendSize(ctx); err != nil {
			return err
		}
	}
	if r.MaxIdle == 0 {
		return nil
	}
	evicted, err := r.Registry.EvictIdle(ctx, time.Now().Add(-r.MaxIdle), r.Keep)
	if evicted != (storage.Evicted{}) {
		r.Log.Info("evicted what was not pulled for long", "manifests", evicted.Manifests, "bytes", evicted.Bytes)
	}
	return err
}

func (r *Room) tendSize(ctx context.Context) error {
	r.Transfers.reserving.Lock()
	defer r.Transfers.reserving.Unlock()
	if r.over(ctx, 0) <= 0 {
		return nil
	}
	return r.makeSmaller(ctx, 0)
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
