package main

import (
	"context"
	"fmt"
	"log"
	"slices"
	"time"
)

const (
	coldLayers  = 8
	coldClients = 20
	firstBytes  = 20
)

// measureCold has images pulled through caches that do not have them yet, from an
// upstream that is as far away and as slow as one on the Internet.
func measureCold(ctx context.Context, b *bench) error {
	upstream, err := b.start(ctx, direct)
	if err != nil {
		return err
	}
	b.upstream = upstream.address
	defer func() {
		b.upstream = ""
		if err := upstream.stop(); err != nil {
			log.Print(err)
		}
	}()
	err = b.eachRound(ctx, []string{direct, registry, distribution}, func(name string, round int) error {
		if name == direct {
			return b.pullCold(ctx, upstream, upstream, round)
		}
		p, err := b.start(ctx, name)
		if err != nil {
			return err
		}
		defer b.stop(p)
		if err := b.pullCold(ctx, upstream, p, round); err != nil {
			return p.explain(err)
		}
		return nil
	})
	for _, name := range []string{registry, baseline, distribution} {
		for round, ms := range b.results.values("cold", "first byte ms", name) {
			if without, ok := b.results.values("cold", "first byte ms", direct)[round]; ok {
				b.results.add("cold", "first byte after direct ms", name, round, ms-without)
			}
		}
	}
	return err
}

// pullCold measures one peer, or the upstream itself, in one round.
func (b *bench) pullCold(ctx context.Context, upstream, p *peer, round int) error {
	control := upstreamControl{upstream.admin}
	measure := func(work string, layers int, size int64, pull func(repository string) error) (ratio float64, repository string, err error) {
		repository = fmt.Sprintf("cold/%s-%s-%d", p.name, work, round)
		image, err := control.addImage(ctx, repository, layers, size)
		if err != nil {
			return 0, "", err
		}
		settle(ctx)
		if err := pull(p.prefix + repository); err != nil {
			return 0, "", err
		}
		sent, err := control.sent(ctx, repository)
		return float64(sent) / float64(image), repository, err
	}

	var took time.Duration
	_, repository, err := measure("one", coldLayers, b.ColdSize, func(repository string) (err error) {
		took, err = pullAtOnce(ctx, 1, p.address, repository)
		return err
	})
	if err != nil {
		return err
	}
	b.results.add("cold", "one ms", p.name, round, took.Seconds()*1e3)
	if p != upstream {
		if err := b.pullWarm(ctx, p, repository, round); err != nil {
			return err
		}
	}
	if err := control.deleteImage(ctx, repository); err != nil {
		return err
	}

	ratio, repository, err := measure("many", coldLayers, b.ColdSize, func(repository string) error {
		return b.profiled(ctx, p, "cold", func() (err error) {
			took, err = pullAtOnce(ctx, coldClients, p.address, repository)
			return err
		})
	})
	if err != nil {
		return err
	}
	b.results.add("cold", "many ms", p.name, round, took.Seconds()*1e3)
	if p != upstream {
		b.results.add("cold", "many ratio", p.name, round, ratio)
	}
	if err := control.deleteImage(ctx, repository); err != nil {
		return err
	}

	var latencies []time.Duration
	_, repository, err = measure("first", firstBytes, 1e6, func(repository string) (err error) {
		latencies, err = pullFirstBytes(ctx, p.address, repository)
		return err
	})
	if err != nil {
		return err
	}
	b.results.add("cold", "first byte ms", p.name, round, median(milliseconds(latencies)))
	return control.deleteImage(ctx, repository)
}

// pullWarm measures how fast a cached manifest is served by its tag, and beside it, by a
// registry that takes pushes too, a private one.
func (b *bench) pullWarm(ctx context.Context, p *peer, repository string, round int) error {
	generate, name := findLoad()
	b.results.LoadGenerator = name
	targets := []struct{ name, path string }{{p.name, "/v2/" + p.prefix + repository + "/manifests/" + coldTag}}
	if p.name == registry {
		image := pulledImage()
		err := withClient(ctx, p.address, func(c *client) error { return c.pushImage("pull/manifest", "latest", image) })
		if err != nil {
			return err
		}
		targets = append(targets, struct{ name, path string }{private, "/v2/pull/manifest/manifests/latest"})
	}
	if round%2 == 1 {
		slices.Reverse(targets)
	}
	for _, cached := range targets {
		rate, err := generate(ctx, target{address: p.address, path: cached.path}, manifestClients, b.Duration)
		if err != nil {
			return err
		}
		b.results.add("cold", "warm requests/s", cached.name, round, rate)
	}
	return nil
}
