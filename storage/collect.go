package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

// CollectOptions say what is garbage, and how it is collected.
type CollectOptions struct {
	// Delay is how long something is kept after the last of what needed it went.
	Delay time.Duration
	// Untagged is how long manifests of this registry's own repositories are kept which
	// neither a tag nor an index nor their subject needs; 0: for ever.
	Untagged time.Duration
	// Retention decides which tags of this registry's own repositories go; the first rule
	// that matches a repository decides.
	Retention []Retention
	// UploadExpiry is how long an upload is kept to which nothing is added.
	UploadExpiry time.Duration
	// DryRun tells what would go, and removes nothing.
	DryRun bool
	// Interval: if another process has collected in less than nine tenths of that, or does so
	// now, nothing is done, and the error is ErrDoneElsewhere; 0: in any case.
	Interval time.Duration
	// Gentle leaves half of the time to others.
	Gentle bool
	// Report gets a line for each tag and manifest that goes, and in a dry run for each
	// blob. It may be nil.
	Report Report
}

// Collected counts what went.
type Collected struct {
	Uploads   int64 `json:"uploads"`   // that had expired
	Tags      int64 `json:"tags"`      // that no rule kept
	Manifests int64 `json:"manifests"` // that nothing needed; their blobs follow after the delay
	Blobs     int64 `json:"blobs"`     // whose bytes went
	Bytes     int64 `json:"bytes"`     // that those had
	Orphans   int64 `json:"orphans"`   // files that no fact mentioned, as a crash leaves them
}

// Collect removes what nothing needs any more. It goes on beside everything else, in
// small steps: what is tagged, the entries of an index that is kept, what refers to a
// manifest that is kept, and what is being pushed or pulled stays. Its work grows with
// the garbage, not with the registry. One that is under way is waited for. When it is
// interrupted the next one goes on. That it came to its end is recorded as RunCollect.
func (r *Registry) Collect(ctx context.Context, options CollectOptions) (Collected, error) {
	done, err := r.HoldCollection(ctx, options.Report)
	if err != nil {
		return Collected{}, err
	}
	defer done()
	if err := r.checkInterval(ctx, RunCollect, options.Interval); err != nil {
		return Collected{}, err
	}
	if err := r.FlushPulls(ctx); err != nil {
		return Collected{}, err
	}
	c := &collector{CollectOptions: options, registry: r, began: now(), due: make(map[int64]map[int64]bool)}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"uploads", c.collectUploads},
		{"tags", c.collectTags},
		{"manifests", c.collectManifests},
		{"deleted manifests", c.purgeManifests},
		{"blobs", c.collectBlobs},
		{"deleted blobs", c.purgeBlobs},
		{"what tags were", c.purgeHistory},
		{"files", c.collectFiles},
	} {
		if err := step.do(ctx); err != nil {
			return c.total, fmt.Errorf("collecting %s: %w", step.what, err)
		}
	}
	if options.DryRun {
		return c.total, nil
	}
	return c.total, r.recordRun(ctx, RunCollect, c.total)
}

// HoldCollection keeps everything that this registry's own repositories hold, and all
// bytes that no fact mentions, from being collected until release is called. If it takes
// long to get there report, which may be nil, is told.
func (r *Registry) HoldCollection(ctx context.Context, report Report) (release func(), err error) {
	return r.alone(ctx, r.collecting, "collect", report)
}

// silence is how long is waited before that is told.
const silence = 2 * time.Second

// alone waits until nobody else does something, here or in another process. here has room
// for one.
func (r *Registry) alone(ctx context.Context, here chan struct{}, what string, report Report) (release func(), err error) {
	if report != nil {
		told := make(chan struct{})
		timer := time.AfterFunc(silence, func() {
			defer close(told)
			report(Progress{Line: "waiting until another command, or server, has done what must not be disturbed"})
		})
		defer func() {
			if !timer.Stop() {
				<-told // nobody reports two things at once
			}
		}()
	}
	select {
	case here <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	locker, ok := r.database.Database.(Locker)
	if !ok {
		return func() { <-here }, nil
	}
	unlock, err := locker.Lock(ctx, what)
	if err != nil {
		<-here
		return nil, err
	}
	return func() {
		unlock()
		<-here
	}, nil
}

// collector is one run of Collect.
type collector struct {
	CollectOptions
	registry *Registry
	began    int64
	total    Collected
	// due are manifests that a dry run finds to be without tags, by repository.
	due map[int64]map[int64]bool
}

// before is the last second in which something may have become garbage to go now. What
// is to be kept for a while is so for no less: it may have been at the end of the second
// that is written down.
func (c *collector) before(kept time.Duration) int64 {
	if kept <= 0 {
		return c.began
	}
	return c.began - 1 - int64((kept+time.Second-1)/time.Second)
}

// step is what one transaction did, to be told, and done to the rest, once it is durable.
type step struct {
	Collected
	lines []string
	gone  []manifestKey // tags and manifests
	bytes []BlobKey     // of blobs whose fact is gone
}

const (
	// stepTime is how long a transaction goes on taking up more work: pushes wait for it.
	stepTime = 2 * time.Millisecond
	// maxRest is the longest pause after one.
	maxRest = 100 * time.Millisecond
	// collectPage is how many candidates are read at a time.
	collectPage = 500
)

// inCollectSteps does f to all items, some of them in each transaction. What f adds to the step
// counts when that is durable.
func inCollectSteps[T any](ctx context.Context, c *collector, items []T, f func(Tx, *step, T) error) error {
	for len(items) > 0 {
		var done int
		var s step
		began := time.Now()
		err := c.registry.database.Write(ctx, func(tx Tx) error {
			done, s = 0, step{}
			for began := time.Now(); done < len(items) && time.Since(began) < stepTime; done++ {
				if err := f(tx, &s, items[done]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		items = items[done:]
		if err := c.finish(ctx, &s); err != nil {
			return err
		}
		// The busier others are, the longer that took, and the longer they are left alone.
		if err := c.rest(ctx, time.Since(began)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// finish does what follows from a step.
func (c *collector) finish(ctx context.Context, s *step) error {
	for _, key := range s.gone {
		c.registry.manifests.forget(key.repository, key.reference)
	}
	for _, key := range s.bytes {
		if _, err := c.registry.removeBytes(ctx, key); err != nil {
			return err
		}
	}
	c.total.Tags += s.Tags
	c.total.Manifests += s.Manifests
	c.total.Blobs += s.Blobs
	c.total.Bytes += s.Bytes
	for _, line := range s.lines {
		c.tell(line)
	}
	return nil
}

func (c *collector) tell(line string) {
	if c.Report != nil {
		c.Report(Progress{Line: line, Done: c.total.Manifests + c.total.Blobs, Unit: "removed"})
	}
}

// rest leaves as much time to others as was just taken from them.
func (c *collector) rest(ctx context.Context, worked time.Duration) error {
	if !c.Gentle {
		return ctx.Err()
	}
	timer := time.NewTimer(min(worked, maxRest))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *collector) collectUploads(ctx context.Context) error {
	before := time.Unix(c.before(c.UploadExpiry), 0)
	err := c.registry.database.Read(ctx).QueryRow(`SELECT count(*) FROM uploads WHERE updated < $1`, before.Unix()).Scan(&c.total.Uploads)
	if err != nil || c.DryRun || c.total.Uploads == 0 {
		return err
	}
	return c.registry.ExpireUploads(ctx, before)
}

// collectFiles removes the bytes, of uploads and of blobs, that no fact mentions: a crash
// leaves them between the two, whichever came first.
func (c *collector) collectFiles(ctx context.Context) error {
	if !c.DryRun {
		if err := c.registry.DiscardOrphans(ctx); err != nil {
			return err
		}
		if err := c.registry.forgetBrought(ctx); err != nil {
			return err
		}
	}
	var seen int
	for key, err := range c.registry.blobs.Blobs(ctx) {
		if err != nil {
			return err
		}
		if seen++; seen%collectPage == 0 {
			if err := c.rest(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
		known, err := isKnown(c.registry.database.Read(ctx), key)
		if err != nil {
			return err
		}
		if known {
			continue
		}
		if c.DryRun {
			// What is being pushed is such a file for a moment.
			c.total.Orphans++
			c.tell(fmt.Sprintf("file of %s: no fact mentions it", key.Digest))
			continue
		}
		removed, err := c.registry.removeBytes(ctx, key)
		if err != nil {
			return err
		}
		if removed {
			c.total.Orphans++
		}
	}
	return nil
}

// since tells how long ago something was.
func since(at int64) string { return humanize.Time(time.Unix(at, 0)) }
