package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/upstream"
)

const (
	// expireInterval is how often uploads are looked at.
	expireInterval = 10 * time.Minute
	// pullsInterval is how often it is written down what was pulled.
	pullsInterval = time.Minute
	// tendInterval is how often caches are looked at, whatever is pulled through them.
	tendInterval = 10 * time.Minute
)

// lookAfter sets up and begins what is done to a registry now and then.
func (a *App) lookAfter(ctx context.Context, opened *openRegistry) error {
	registry := opened.registry
	if err := registry.SetQuotas(ctx, a.upkeep.quotas); err != nil {
		return err
	}
	for _, auth := range a.auths {
		a.upkeep.maxKeyLifetime = max(a.upkeep.maxKeyLifetime, auth.site.Keys.MaxLifetime)
	}
	opened.upkeep.Store(&a.upkeep)
	opened.caches.Store(&a.caches)
	last, err := registry.LastRun(ctx, storage.RunCollect, nil)
	if err != nil {
		return err
	}
	expiry := a.upkeep.collect.UploadExpiry
	a.every(ctx, "removing expired uploads", 0, min(expireInterval, expiry), func(ctx context.Context) error {
		return errors.Join(registry.ExpireUploads(ctx, time.Now().Add(-expiry)), registry.DiscardOrphans(ctx))
	})
	a.every(ctx, "writing down what was pulled", pullsInterval, pullsInterval, registry.FlushPulls)
	// A server that is restarted often collects all the same.
	a.every(ctx, "collecting garbage", time.Until(last.Add(a.upkeep.interval)), a.upkeep.interval, func(ctx context.Context) error {
		options := a.upkeep.collect
		options.Interval = a.upkeep.interval
		collected, err := opened.collect(ctx, options)
		if collected != (storage.Collected{}) {
			a.logger.Info("collected garbage", zap.Int64("tags", collected.Tags), zap.Int64("manifests", collected.Manifests),
				zap.Int64("blobs", collected.Blobs), zap.Int64("bytes", collected.Bytes), zap.Int64("uploads", collected.Uploads),
				zap.Int64("orphans", collected.Orphans))
		}
		return err
	})
	for _, cache := range a.caches {
		a.every(ctx, "evicting", 0, tendInterval, func(ctx context.Context) error {
			if err := cache.open(); err != nil {
				return err
			}
			return cache.room.Tend(ctx)
		})
	}
	return a.scrub(ctx, opened)
}

// every does something in the background until ctx ends: after a first pause, which may be
// none, and then at each interval.
func (a *App) every(ctx context.Context, what string, first, interval time.Duration, do func(context.Context) error) {
	a.running.Go(func() {
		timer := time.NewTimer(max(first, 0))
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			err := do(ctx)
			switch {
			case err == nil, errors.Is(err, context.Canceled), errors.Is(err, storage.ErrDoneElsewhere), errors.Is(err, storage.ErrMoving):
			default:
				a.logger.Error(what, zap.Error(err))
			}
			timer.Reset(interval)
		}
	})
}

// scrub has all that is stored read again, now and then.
func (a *App) scrub(ctx context.Context, opened *openRegistry) error {
	if a.upkeep.scrub == 0 {
		return nil
	}
	last, err := opened.registry.LastRun(ctx, storage.RunVerify, nil)
	if err != nil {
		return err
	}
	a.every(ctx, "scrubbing", time.Until(last.Add(a.upkeep.scrub)), a.upkeep.scrub, func(ctx context.Context) error {
		found, err := opened.registry.Verify(ctx, storage.VerifyOptions{BytesPerSecond: a.upkeep.rate, Interval: a.upkeep.scrub, Repair: opened.repair, Report: func(p storage.Progress) {
			if p.Line != "" {
				a.logger.Error("scrubbing: " + p.Line)
			}
		}})
		if err == nil {
			a.logger.Info("scrubbed", zap.Int64("blobs", found.Blobs), zap.Int64("bytes", found.Bytes), zap.Int64("repaired", found.Repaired))
		}
		return err
	})
	return nil
}

var errNoCache = errors.New("no site of the configuration caches that")

// cacheOf returns the cache of the upstream whose copy a repository is, and its name there.
func (o *openRegistry) cacheOf(repository string) (*upstream.Cache, upstream.Mapped, error) {
	for _, cache := range *o.caches.Load() {
		if err := cache.open(); err != nil {
			return nil, upstream.Mapped{}, err
		}
		// A name that begins with no upstream's is not sent to any.
		mapped, err := cache.names.Map(repository, "", "", func(string) (bool, error) { return true, nil })
		if err == nil && mapped.Upstream != "" {
			return cache.caches[mapped.Upstream], mapped, nil
		}
	}
	return nil, upstream.Mapped{}, fmt.Errorf("%s: %w", repository, errNoCache)
}

// repair fetches a damaged blob again from the upstream that has it.
func (o *openRegistry) repair(ctx context.Context, damage storage.Damage) error {
	cache, mapped, err := o.cacheOf(damage.Repository)
	if err != nil {
		return err
	}
	return cache.Repair(ctx, mapped, damage.Digest)
}

// collect collects garbage, and keeps account of that.
func (o *openRegistry) collect(ctx context.Context, options storage.CollectOptions) (storage.Collected, error) {
	collected, err := o.registry.Collect(ctx, options)
	if options.DryRun || errors.Is(err, storage.ErrDoneElsewhere) {
		return collected, err
	}
	collections.Inc()
	collectedBytes.Add(float64(collected.Bytes))
	return collected, err
}
