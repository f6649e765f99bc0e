package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/eblume/caddy-registry/bench/scale"
	"github.com/eblume/caddy-registry/storage"
	"github.com/eblume/caddy-registry/storage/filesystem"
	"github.com/eblume/caddy-registry/storage/postgres"
	"github.com/eblume/caddy-registry/storage/sqlite"
)

// scaleRounds is how often everything is asked for.
const scaleRounds = 500

// postgresPeer is the registry with its facts in PostgreSQL.
const postgresPeer = "postgres"

// measureScale has every query of the API run in databases of a large registry, in this
// process.
func measureScale(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.dir, "scale")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file := filepath.Join(dir, "registry.db")
	err := b.measureDatabase(ctx, registry, scale.SQLite, func() (storage.Database, error) { return sqlite.Open(ctx, file, sqlite.Options{}) })
	if info, statErr := os.Stat(file); err == nil && statErr == nil {
		b.results.add("scale", "GB", registry, 0, float64(info.Size())/1e9)
	}
	err = errors.Join(err, os.RemoveAll(dir))
	if err != nil || b.postgres == "" {
		return err
	}
	url, drop, err := newDatabase(ctx, b.postgres, "scale")
	if err != nil {
		return err
	}
	err = b.measureDatabase(ctx, postgresPeer, scale.PostgreSQL, func() (storage.Database, error) { return postgres.Open(ctx, url) },
		"SET LOCAL session_replication_role = replica") // nothing is checked: what is filled in is right
	return errors.Join(err, drop())
}

func (b *bench) measureDatabase(ctx context.Context, peer string, engine scale.Engine, open func() (storage.Database, error), first ...string) error {
	size := scale.Size{Repositories: b.Scale / 100}
	database, err := open()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := scale.Fill(ctx, database, size, first...); err != nil {
		return errors.Join(err, database.Close())
	}
	if engine == scale.PostgreSQL {
		err = database.Write(ctx, func(tx storage.Tx) error {
			if _, err := tx.Exec(`ANALYZE`); err != nil { // as PostgreSQL does by itself in a while
				return err
			}
			var bytes float64
			err := tx.QueryRow(`SELECT pg_database_size(current_database())`).Scan(&bytes)
			b.results.add("scale", "GB", peer, 0, bytes/1e9)
			return err
		})
	}
	if err := errors.Join(err, database.Close()); err != nil {
		return err
	}
	log.Printf("%s: filled with %d repositories, %d manifests, %d facts of blobs in %s", engine.Name, size.Repositories, size.Manifests(), size.Held(), time.Since(began).Round(time.Second))
	if database, err = open(); err != nil {
		return err
	}
	blobs, err := filesystem.Open(ctx, filepath.Join(b.dir, "scale-blobs-"+peer))
	if err != nil {
		return errors.Join(err, database.Close())
	}
	settle(ctx)
	recorder, err := scale.Measure(ctx, blobs, database, size, scaleRounds)
	if err != nil {
		return err
	}
	return errors.Join(b.tellPlans(ctx, peer, engine, recorder), recorder.Close())
}

// tellPlans tells of the slowest statements, and of those that no index helps, which is an
// error.
func (b *bench) tellPlans(ctx context.Context, peer string, engine scale.Engine, recorder *scale.Recorder) error {
	statements := recorder.Statements()
	slowest := statements[len(statements)-1]
	b.results.add("scale", "p99 ms", peer, 0, slowest.Percentile(99).Seconds()*1e3)
	b.results.add("scale", "p50 ms", peer, 0, statements[len(statements)/2].Percentile(50).Seconds()*1e3)
	for _, s := range statements[max(0, len(statements)-5):] {
		b.results.note("%s: p50 %.2f ms, p99 %.2f ms, of %d: %s", engine.Name, s.Percentile(50).Seconds()*1e3, s.Percentile(99).Seconds()*1e3, len(s.Times), s.Text)
	}
	plans, err := recorder.Plans(ctx, engine)
	if err != nil {
		return err
	}
	var scanned []string
	for _, p := range plans {
		if len(p.Scanned) > 0 {
			scanned = append(scanned, fmt.Sprintf("%s (%s)", strings.Join(p.Scanned, ", "), p.Statement.Text))
		}
	}
	b.results.note("%s: %d statements, %d with a plan, of which %d read a table from one end to the other", engine.Name, len(statements), len(plans), len(scanned))
	if len(scanned) > 0 {
		return fmt.Errorf("%s reads from one end to the other: %s", engine.Name, strings.Join(scanned, "; "))
	}
	return nil
}
