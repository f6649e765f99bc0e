package caddymodule

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/eblume/caddy-registry/storage"
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
	opened.upkeep.Store(&a.upkeep)
	last, err := registry.LastRun(ctx, storage.RunCollect, nil)
	if err != nil {
		return err
	}
	expiry := a.upkeep.collect.UploadExpiry
	a.every(ctx, "removing expired uploads", 0, min(expireInterval, expiry), func(ctx context.Context) error {
		return registry.ExpireUploads(ctx, time.Now().Add(-expiry))
	})
	a.every(ctx, "writing down what was pulled", pullsInterval, pullsInterval, registry.FlushPulls)
	// A server that is restarted often collects all the same.
	a.every(ctx, "collecting garbage", time.Until(last.Add(a.upkeep.interval)), a.upkeep.interval, func(ctx context.Context) error {
		collected, err := opened.collect(ctx, a.upkeep.collect)
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
	return nil
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
			if err := do(ctx); err != nil && !errors.Is(err, context.Canceled) {
				a.logger.Error(what, zap.Error(err))
			}
			timer.Reset(interval)
		}
	})
}

// collect collects garbage, and keeps account of that.
func (o *openRegistry) collect(ctx context.Context, options storage.CollectOptions) (storage.Collected, error) {
	collected, err := o.registry.Collect(ctx, options)
	if options.DryRun {
		return collected, err
	}
	collections.Inc()
	collectedBytes.Add(float64(collected.Bytes))
	if err == nil {
		err = o.registry.RecordRun(ctx, storage.RunCollect, collected)
	}
	return collected, err
}
