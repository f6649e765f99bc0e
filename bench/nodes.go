package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"

	"github.com/jackc/pgx/v5"
)

// The registries that are compared when there are several nodes.
const (
	oneNode = "one node"
	onFile  = "SQLite" // one that has its facts for itself
)

// nodes is how many serve one registry.
const nodes = 3

// measureNodes has a manifest pulled by its tag from one and from several servers of one
// registry: a node reads from the database, and asks no other node.
func measureNodes(ctx context.Context, b *bench) (err error) {
	if b.postgres == "" {
		b.results.note("nodes are not measured without -postgres")
		return nil
	}
	database, drop, err := newDatabase(ctx, b.postgres, "nodes")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	shared := fmt.Sprintf("\tregistry {\n\t\tdatabase postgres %s\n\t}\n", database)
	var all []*peer
	for i := range nodes + 1 {
		b.global = shared
		if i == nodes {
			b.global = ""
		}
		p, err := b.start(ctx, registry)
		b.global = ""
		if err != nil {
			return err
		}
		defer p.stop()
		all = append(all, p)
	}
	image := pulledImage()
	for _, p := range []*peer{all[0], all[nodes]} {
		if err := withClient(ctx, p.address, func(c *client) error { return c.pushImage("pull/manifest", "latest", image) }); err != nil {
			return err
		}
	}
	for round := range b.Rounds {
		for _, set := range []struct {
			name  string
			nodes []*peer
		}{{registry, all[:nodes]}, {oneNode, all[:1]}, {onFile, all[nodes:]}} {
			if err := b.pullFrom(ctx, set.name, set.nodes, round); err != nil {
				return err
			}
		}
	}
	return nil
}

// pullFrom asks all of some nodes at once, by as many clients together however many they are.
func (b *bench) pullFrom(ctx context.Context, name string, from []*peer, round int) error {
	generate, load := findLoad()
	b.results.LoadGenerator = load
	const path = "/v2/pull/manifest/manifests/latest"
	cpu := func() (total float64, err error) {
		for _, p := range from {
			used, err := cpuOf(p.cmd.Process.Pid)
			if err != nil {
				return 0, err
			}
			total += float64(used.Microseconds())
		}
		return total, nil
	}
	before, err := cpu()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var clients sync.WaitGroup
	var rate float64
	var failed error
	for _, p := range from {
		clients.Go(func() {
			got, err := generate(ctx, target{address: p.address, path: path}, manifestClients/len(from), b.Duration)
			mu.Lock()
			defer mu.Unlock()
			rate, failed = rate+got, errors.Join(failed, err)
		})
	}
	clients.Wait()
	after, err := cpu()
	if err := errors.Join(failed, err); err != nil {
		return err
	}
	b.results.add("nodes", "requests/s", name, round, rate)
	b.results.add("nodes", "CPU µs/request", name, round, (after-before)/(rate*b.Duration.Seconds()))
	return nil
}

// newDatabase makes a database on the server of another one, and returns its URL.
func newDatabase(ctx context.Context, server, name string) (address string, drop func() error, err error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", nil, fmt.Errorf("-postgres: %w", err)
	}
	name = "registry_bench_" + name
	run := func(ctx context.Context, statements ...string) error {
		conn, err := pgx.Connect(ctx, server)
		if err != nil {
			return fmt.Errorf("-postgres: %w", err)
		}
		defer conn.Close(ctx)
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("-postgres: %w", err)
			}
		}
		return nil
	}
	dropped := "DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"
	if err := run(ctx, dropped, "CREATE DATABASE "+name); err != nil {
		return "", nil, err
	}
	u.Path = "/" + name
	return u.String(), func() error { return run(context.WithoutCancel(ctx), dropped) }, nil
}
