// Package upstream is what makes a registry a pull-through cache of others: which
// repository a name means, when to ask an upstream again, and the blobs that are on
// their way from one, each once for all who want it. What has arrived is kept in package
// storage, in repositories that are marked as copies.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"

	"github.com/eblume/caddy-registry/storage"
)

// Options say how a Cache copies one upstream's repositories.
type Options struct {
	Name         string // such as docker.io
	Client       *Client
	Fresh        Freshness
	StaleIfError time.Duration // how long after it was fresh a tag may stand in for an upstream that fails; 0: for ever
	NotFoundTTL  time.Duration // how long it is remembered what the upstream does not have
	Access       Access
	Prefetch     bool // layers are fetched as soon as their manifest is
	Room         *Room
	Meter        Meter
	Log          *slog.Logger
}

// Cache copies one upstream's repositories as they are pulled.
type Cache struct {
	Options
	registry  *storage.Registry
	transfers *Transfers

	asking  singleflight.Group
	since   sync.Map    // of what is asked → when it began
	slow    atomic.Bool // the upstream took longer than patience the last time
	refused *lru.Cache[string, refused]
	tags    *lru.Cache[tagKey, tagState]
	unkept  *lru.Cache[string, struct{}] // blobs that manifests name which could not be kept
	lists   *lists[string]
	found   *lists[imagespec.Descriptor]
}

const (
	// patience is how long a client waits for an upstream to say whether a tag is still
	// what it was.
	patience = time.Second
	// askTimeout ends a question that no client waits for any more.
	askTimeout = time.Minute

	maxTagStates = 100_000
	maxRefused   = 10_000
	maxUnkept    = 10_000
)

// NewCache returns a cache that keeps copies in registry.
func NewCache(options Options, registry *storage.Registry, transfers *Transfers) *Cache {
	return &Cache{
		Options:   options,
		registry:  registry,
		transfers: transfers,
		refused:   newLRU[string, refused](maxRefused),
		tags:      newLRU[tagKey, tagState](maxTagStates),
		unkept:    newLRU[string, struct{}](maxUnkept),
		lists:     newLists(tagSize),
		found:     newLists(descriptorSize),
	}
}

func newLRU[K comparable, V any](size int) *lru.Cache[K, V] {
	cache, err := lru.New[K, V](size)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return cache
}

// Result is where an answer came from.
type Result string

// The results, as in the X-Registry-Cache header and in metrics.
const (
	Hit         Result = "hit"         // it was here
	Miss        Result = "miss"        // the upstream gave it
	Revalidated Result = "revalidated" // it was here, and the upstream said that it still holds
	Stale       Result = "stale"       // it was here, and the upstream could not be asked
	Negative    Result = "negative"    // the upstream said a while ago that it has it not
)

// View is one repository as one request sees it: what is missing is fetched, or is being
// fetched, when it is asked for. It is a source for package distribution.
//
// Errors are those of package storage and this one's Err….
type View struct {
	cache  *Cache
	mapped Mapped
	note   func(Result)
}

// View returns the view of a repository that is mapped to this upstream. Note is called
// once it is known where the answer comes from.
func (c *Cache) View(mapped Mapped, note func(Result)) *View {
	return &View{cache: c, mapped: mapped, note: func(r Result) {
		c.Meter.result(r)
		note(r)
	}}
}

// ask has f asked once for all who want to know the same, and returns its answer, or
// ctx's error if that comes first. It goes on when the client that began it leaves.
func ask[T any](ctx context.Context, c *Cache, what string, f func(context.Context) (T, error)) (T, error) {
	answer := c.asking.DoChan(what, func() (any, error) {
		ctx, done, err := c.transfers.outlive(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		c.since.Store(what, time.Now())
		defer c.since.Delete(what)
		value, err := f(ctx)
		if err != nil && ctx.Err() != nil {
			err = c.transfers.unlessStopped(fmt.Errorf("%w: %s gave no answer for %v", ErrTimeout, c.Name, askTimeout))
		}
		return value, err
	})
	select {
	case result := <-answer:
		value, _ := result.Val.(T)
		return value, result.Err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// errImpatient is the answer of an upstream that lets its client wait.
var errImpatient = fmt.Errorf("%w: it is slow", ErrTimeout)

// askFor is ask that returns errImpatient if the answer takes longer than wait, counted
// from when somebody asked first.
func askFor[T any](ctx context.Context, c *Cache, wait time.Duration, what string, f func(context.Context) (T, error)) (T, error) {
	if began, ok := c.since.Load(what); ok {
		wait -= time.Since(began.(time.Time))
	}
	short, cancel := context.WithTimeoutCause(ctx, wait, errImpatient)
	defer cancel()
	answer, err := ask(short, c, what, f)
	if err != nil && ctx.Err() == nil && context.Cause(short) == errImpatient {
		err = errImpatient
	}
	return answer, err
}

// refused is what the upstream said that it does not have, or not give.
type refused struct {
	err   error
	until time.Time // it is believed
}

// negative is the error of what the upstream refused a while ago.
type negative struct{ error }

func (n negative) Unwrap() error { return n.error }

// check refuses what the configuration does, and what the upstream did a while ago.
func (v *View) check(what string) error {
	if err := v.cache.Access.Check(v.mapped.Remote, ""); err != nil {
		return err
	}
	if r, ok := v.cache.refused.Get(v.mapped.Repository + " " + what); ok && time.Now().Before(r.until) {
		return negative{r.err}
	}
	return nil
}

// remember keeps an error for a while if asking again would give the same one.
func (v *View) remember(what string, err error) error {
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) {
		v.cache.refused.Add(v.mapped.Repository+" "+what, refused{err, time.Now().Add(v.cache.NotFoundTTL)})
	}
	return err
}

// explain returns the error that a client is answered with. That the upstream has
// something not is put into storage's words.
func (v *View) explain(err, unknown error) error {
	if errors.As(err, new(negative)) {
		v.note(Negative)
	}
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", unknown, err)
	}
	return err
}
