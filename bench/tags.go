package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

const (
	tagClients = 8
	pageSize   = 100
)

// measureTags has many tags pushed to one repository, each to a manifest of its own, and
// then pages of them listed.
func measureTags(ctx context.Context, b *bench) error {
	image := pulledImage()
	return b.fresh(ctx, []string{registry, distribution}, func(p *peer, round int) error {
		count := b.Tags
		if p.name == distribution {
			count = b.PeerTags
		}
		err := withClient(ctx, p.address, func(c *client) error { return c.pushBlobs("tags", image) })
		if err != nil {
			return err
		}
		settle(ctx)
		var latencies []time.Duration
		err = b.profiled(ctx, p, "tags", func() error {
			var err error
			latencies, err = pushTags(ctx, p, image, count)
			return err
		})
		if err != nil {
			return err
		}
		tenth := max(1, count/10)
		first, last := median(milliseconds(latencies[:tenth])), median(milliseconds(latencies[count-tenth:]))
		b.results.add("tags", "first ms", p.name, round, first)
		b.results.add("tags", "last ms", p.name, round, last)
		b.results.add("tags", "last ÷ first", p.name, round, last/first)
		page, err := listMiddle(ctx, p, count, b.Pages)
		if err != nil {
			return err
		}
		b.results.add("tags", "page ms", p.name, round, page)
		return nil
	})
}

// pushTags returns how long each push took, in the order in which they began.
func pushTags(ctx context.Context, p *peer, image image, count int) ([]time.Duration, error) {
	latencies := make([]time.Duration, count)
	var next atomic.Int64
	_, err := parallel(ctx, tagClients, p.address, func(_ context.Context, c *client, _ int) error {
		for {
			n := int(next.Add(1)) - 1
			if n >= count {
				return nil
			}
			tag := tagName(n)
			manifest := image.manifestFor(tag)
			start := time.Now()
			if err := c.putManifest("tags", tag, manifest); err != nil {
				return err
			}
			latencies[n] = time.Since(start)
		}
	})
	return latencies, err
}

// listMiddle returns the median time in ms that a page from the middle of the tags takes.
func listMiddle(ctx context.Context, p *peer, count, times int) (float64, error) {
	path := fmt.Sprintf("/v2/tags/tags/list?n=%d&last=%s", pageSize, tagName(count/2))
	latencies := make([]time.Duration, times)
	err := withClient(ctx, p.address, func(c *client) error {
		for i := range latencies {
			start := time.Now()
			if _, err := c.get(path); err != nil {
				return err
			}
			latencies[i] = time.Since(start)
		}
		return nil
	})
	return median(milliseconds(latencies)), err
}

// tagName returns names that are listed in the order of their numbers.
func tagName(n int) string { return fmt.Sprintf("v%07d", n) }

func milliseconds(durations []time.Duration) []float64 {
	all := make([]float64, len(durations))
	for i, d := range durations {
		all[i] = d.Seconds() * 1e3
	}
	return all
}

// median returns the middle of values, which it does not change, or 0 if there are none.
func median(values []float64) float64 { return percentile(values, 50) }

// percentile returns the value that p percent of values are not above, between two of
// them if need be.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	position := p / 100 * float64(len(sorted)-1)
	low := int(position)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (position-float64(low))*(sorted[low+1]-sorted[low])
}
