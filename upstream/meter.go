package upstream

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// Meter counts what a cache does. Functions that are nil count nothing.
type Meter struct {
	Result    func(Result)      // of an answer
	Received  func(bytes int64) // from the upstream
	Served    func(bytes int64) // to clients, of what was here
	Transfers func(delta int)
	Mismatch  func() // the upstream sent something that does not match its digest
}

func (m Meter) result(r Result) {
	if m.Result != nil {
		m.Result(r)
	}
}

func (m Meter) received(n int64) {
	if m.Received != nil && n > 0 {
		m.Received(n)
	}
}

func (m Meter) served(n int64) {
	if m.Served != nil && n > 0 {
		m.Served(n)
	}
}

func (m Meter) transfers(delta int) {
	if m.Transfers != nil {
		m.Transfers(delta)
	}
}

func (m Meter) mismatch() {
	if m.Mismatch != nil {
		m.Mismatch()
	}
}

// Pulls remembers when blobs of copies were last pulled, and writes it down in batches.
type Pulls struct {
	registry *storage.Registry
	log      *slog.Logger
	stop     chan struct{}
	stopped  chan struct{}

	mu sync.Mutex
	at map[digest.Digest]time.Time
}

// pullsInterval is how often pulls are written down. A crash may lose those since: it is
// only the order of eviction that depends on them.
const pullsInterval = time.Minute

// NewPulls returns one that writes to a registry until it is closed.
func NewPulls(registry *storage.Registry, log *slog.Logger) *Pulls {
	p := &Pulls{registry: registry, log: log, stop: make(chan struct{}), stopped: make(chan struct{}), at: make(map[digest.Digest]time.Time)}
	go p.run()
	return p
}

func (p *Pulls) run() {
	defer close(p.stopped)
	ticker := time.NewTicker(pullsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.write()
		case <-p.stop:
			p.write()
			return
		}
	}
}

// Close writes down the last pulls.
func (p *Pulls) Close() {
	close(p.stop)
	<-p.stopped
}

func (p *Pulls) note(d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[d] = time.Now()
}

func (p *Pulls) write() {
	p.mu.Lock()
	at := p.at
	p.at = make(map[digest.Digest]time.Time)
	p.mu.Unlock()
	if len(at) == 0 {
		return
	}
	if err := p.registry.Pulled(context.Background(), at); err != nil {
		p.log.Error("writing down what was pulled", "error", err)
	}
}
