// Command bench measures this registry over HTTP, side by side with its peers, and
// prints a table of ratios: `go run ./bench` from the root of the module.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are how much is measured.
type settings struct {
	Rounds   int           `json:"rounds"`
	Duration time.Duration `json:"duration_ns"` // of one run that has a duration
	PullSize int64         `json:"pull_size"`   // bytes of the blob that is pulled
	PushSize int64         `json:"push_size"`   // bytes of a blob that is pushed
	Tags     int           `json:"tags"`
	PeerTags int           `json:"peer_tags"` // of peers, which may be slow at it
	Pages    int           `json:"pages"`     // how often a page of tags is asked for
	ColdSize int64         `json:"cold_size"` // bytes of a layer that is pulled through a cache
	Garbage  int           `json:"garbage"`   // manifests that are collected
	Scale    int           `json:"scale"`     // manifests that databases have
}

var (
	full  = settings{Rounds: 6, Duration: 5 * time.Second, PullSize: 100e6, PushSize: 256e6, Tags: 20_000, PeerTags: 2_000, Pages: 500, ColdSize: 16e6, Garbage: 100_000, Scale: 100_000}
	quick = settings{Rounds: 1, Duration: time.Second, PullSize: 32e6, PushSize: 32e6, Tags: 1_000, PeerTags: 200, Pages: 50, ColdSize: 2e6, Garbage: 1_000, Scale: 2_000}
)

// bench is one run of the command.
type bench struct {
	settings
	dir        string                 // for all that peers write
	server     string                 // the caddy binary
	base       string                 // another one to compare with, or empty
	upstream   string                 // the address of what registries cache, or empty
	global     string                 // options of the registry's app, or empty
	seed       func(dir string) error // fills its storage before it is started, or nil
	postgres   string                 // URL of a server, or empty
	profileDir string
	peaks      map[string]int64 // the most bytes of memory of each peer
	results    results
}

// measurement is a part of the benchmark that -only can name. It returns an error if it
// could not be made against this registry; what is wrong with a peer is a note.
type measurement struct {
	name string
	run  func(context.Context, *bench) error
}

var measurements = []measurement{
	{"manifests", measureManifests},
	{"blobs", measureBlobs},
	{"pushes", measurePushes},
	{"images", measureImages},
	{"tags", measureTags},
	{"cold", measureCold},
	{"collection", measureCollection},
	{"nodes", measureNodes},
	{"scale", measureScale},
	{"memory", measureMemory}, // last: peaks are of all that was measured before
}

func main() {
	log.SetFlags(log.Ltime)
	if len(os.Args) == 4 && os.Args[1] == upstreamCommand {
		log.Fatal(serveUpstream(os.Args[2], os.Args[3]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	only := flag.String("only", "", "comma-separated `names` of what to measure: "+strings.Join(names(), ", "))
	isQuick := flag.Bool("quick", false, "small sizes and one round, to see that everything can be measured")
	jsonFile := flag.String("json", "", "write every figure to this `file`")
	server := flag.String("server", "", "a caddy `binary` with the registry (default: built from ./cmd/caddy)")
	base := flag.String("base", "", "another such `binary`, of an earlier commit perhaps, to be measured as a peer named base")
	dir := flag.String("dir", os.TempDir(), "`folder` on a disk, where a temporary folder is made for what peers store")
	profileDir := flag.String("profile", "", "write CPU profiles of the registry to this `folder`, which costs it some percent")
	rounds := flag.Int("rounds", 0, "how often each peer is measured (default 6, with -quick 1)")
	tags := flag.Int("tags", 0, "how many tags the registry is given (default 20,000, with -quick 1,000)")
	peerTags := flag.Int("peer-tags", 0, "how many tags peers are given (default 2,000, with -quick 200)")
	scale := flag.Int("scale", 0, "how many manifests, of 10 blobs each, databases are filled with (default 100,000, with -quick 2,000)")
	postgres := flag.String("postgres", "", "`URL` of a PostgreSQL server, as a superuser: what is measured there has databases of its own")
	garbage := flag.Int("garbage", 0, "how many manifests, of 10 blobs each, are collected (default 100,000, with -quick 1,000)")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}

	b := &bench{settings: full, server: *server, base: *base, postgres: *postgres, profileDir: *profileDir}
	if *isQuick {
		b.settings = quick
	}
	override(&b.Rounds, *rounds)
	override(&b.Tags, *tags)
	override(&b.PeerTags, *peerTags)
	override(&b.Garbage, *garbage)
	override(&b.Scale, *scale)
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	// Without /proc there would be a table without processor time and memory.
	if _, err := statOf(os.Getpid()); err != nil {
		return fmt.Errorf("this benchmark needs Linux's /proc: %w", err)
	}
	if b.dir, err = os.MkdirTemp(*dir, "registry-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.profileDir != "" {
		if err := os.MkdirAll(b.profileDir, 0o755); err != nil {
			return err
		}
	}
	if err := b.build(ctx); err != nil {
		return err
	}

	for _, m := range chosen {
		log.Printf("measuring %s", m.name)
		if measureErr := m.run(ctx, b); measureErr != nil {
			err = errors.Join(err, fmt.Errorf("%s could not be measured: %w", m.name, measureErr))
		}
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
	printReport(ctx, os.Stdout, b)
	if *jsonFile != "" {
		err = errors.Join(err, writeJSON(ctx, *jsonFile, b))
	}
	return err
}

// build makes the caddy binary unless one was given.
func (b *bench) build(ctx context.Context) error {
	if b.server != "" {
		_, err := os.Stat(b.server)
		return err
	}
	b.server = filepath.Join(b.dir, "caddy")
	log.Print("building ./cmd/caddy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.server, "./cmd/caddy")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the server (run this in the root of the module, or give -server): %w", err)
	}
	return nil
}

// choose returns the measurements that -only names, in their own order, or all.
func choose(only string) ([]measurement, error) {
	if only == "" {
		return measurements, nil
	}
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if !slices.Contains(names(), name) {
			return nil, fmt.Errorf("there is no measurement %q, only %s", name, strings.Join(names(), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(measurements), func(m measurement) bool {
		return !slices.Contains(wanted, m.name)
	}), nil
}

func names() []string {
	var all []string
	for _, m := range measurements {
		all = append(all, m.name)
	}
	return all
}

func override(setting *int, flag int) {
	if flag > 0 {
		*setting = flag
	}
}
