package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/eblume/caddy-registry/glob"
	"github.com/eblume/caddy-registry/storage"
)

// GC is when what nothing needs any more is removed.
type GC struct {
	// How often. Default: 24h.
	Interval Duration `json:"interval,omitempty"`

	// How long something is kept after the last of what needed it went: blobs that no
	// manifest names, what was deleted and can be restored. Default: 1h.
	Delay Duration `json:"delay,omitempty"`

	// How long manifests are kept that neither a tag nor an index nor their subject needs,
	// counted from when they were pushed, pulled, or lost their last tag. Never in copies of
	// upstreams' repositories. Default: for ever.
	Untagged Duration `json:"untagged,omitempty"`
}

// Retention is a rule about the tags of some of this registry's own repositories. Tags
// that it does not keep are removed, and the manifests with them that nothing else needs.
type Retention struct {
	// Globs of the repositories.
	Repositories []string `json:"repositories"`

	// Globs of tags that are kept.
	KeepTags []string `json:"keep_tags,omitempty"`

	// How many tags are kept of those that were pushed last.
	KeepLast int `json:"keep_last,omitempty"`

	// Tags are kept that were pushed, or whose manifest was pulled, at most so long ago.
	KeepPulledWithin Duration `json:"keep_pulled_within,omitempty"`
}

// Quota limits how much some of this registry's own repositories hold together.
type Quota struct {
	// Globs of the repositories.
	Repositories []string `json:"repositories"`

	// How many bytes their blobs may have, each counted once. May be a placeholder.
	Size Size `json:"size"`
}

// Scrub is when all that is stored is read again, to find what a disk has spoilt.
type Scrub struct {
	// How often. Default: 720h, 30 days.
	Interval Duration `json:"interval,omitempty"`

	// How many bytes of blobs are read a second. Default: 20MiB.
	Rate Size `json:"rate,omitempty"`
}

// upkeep is how an app looks after its registry, as it is used.
type upkeep struct {
	interval time.Duration
	collect  storage.CollectOptions
	quotas   []storage.Quota
	scrub    time.Duration // 0: never
	rate     int64         // bytes a second
	// maxKeyLifetime is how long an imported API key works that has no end; 0: a year.
	maxKeyLifetime time.Duration
}

var (
	errKeepsNothing = errors.New("one of keep_tags, keep_last and keep_pulled_within is needed, or no tag would be kept")
	errNoGlobs      = errors.New("globs of repositories are needed")
)

// resolveUpkeep checks the options and returns them as they are used, with placeholders
// replaced. Errors name the option.
func (a *App) resolveUpkeep() (u upkeep, err error) {
	u.collect.Gentle = true
	for _, option := range []struct {
		name     string
		value    Duration
		fallback time.Duration
		to       *time.Duration
	}{
		{"upload_expiry", a.UploadExpiry, 24 * time.Hour, &u.collect.UploadExpiry},
		{"gc interval", a.GC.Interval, 24 * time.Hour, &u.interval},
		{"gc delay", a.GC.Delay, time.Hour, &u.collect.Delay},
		{"gc untagged", a.GC.Untagged, 0, &u.collect.Untagged},
	} {
		if *option.to, err = option.value.or(option.fallback); err != nil {
			return u, fmt.Errorf("%s: %w", option.name, err)
		}
	}
	for _, rule := range a.Retention {
		resolved, err := rule.resolve()
		if err != nil {
			return u, fmt.Errorf("retention %s: %w", strings.Join(rule.Repositories, " "), err)
		}
		u.collect.Retention = append(u.collect.Retention, resolved)
	}
	for _, quota := range a.Quotas {
		resolved, err := quota.resolve()
		if err != nil {
			return u, fmt.Errorf("quota %s: %w", strings.Join(quota.Repositories, " "), err)
		}
		if slices.ContainsFunc(u.quotas, func(other storage.Quota) bool { return other.Name == resolved.Name }) {
			return u, fmt.Errorf("quota %s is given twice", resolved.Name)
		}
		u.quotas = append(u.quotas, resolved)
	}
	if a.Scrub != nil {
		if u.scrub, err = a.Scrub.Interval.or(30 * 24 * time.Hour); err != nil {
			return u, fmt.Errorf("scrub interval: %w", err)
		}
		if u.rate, err = a.Scrub.Rate.or(20 << 20); err != nil {
			return u, fmt.Errorf("scrub rate: %w", err)
		}
	}
	return u, nil
}

func (r *Retention) resolve() (storage.Retention, error) {
	rule := storage.Retention{Name: strings.Join(r.Repositories, " "), KeepLast: r.KeepLast}
	if err := r.check(); err != nil {
		return rule, err
	}
	repositories, err := parseGlobs(r.Repositories)
	if err != nil {
		return rule, err
	}
	rule.Match = repositories.Match
	var tags glob.Set
	if tags, err = parseGlobs(r.KeepTags); err != nil {
		return rule, fmt.Errorf("keep_tags: %w", err)
	}
	if len(tags) > 0 {
		rule.KeepTags = tags.Match
	}
	if rule.KeepPulledWithin, err = r.KeepPulledWithin.or(0); err != nil {
		return rule, fmt.Errorf("keep_pulled_within: %w", err)
	}
	return rule, nil
}

// check checks what is wrong with a rule whatever placeholders stand for.
func (r *Retention) check() error {
	switch {
	case len(r.Repositories) == 0:
		return errNoGlobs
	case r.KeepLast < 0:
		return fmt.Errorf("keep_last must not be negative, it is %d", r.KeepLast)
	case len(r.KeepTags) == 0 && r.KeepLast == 0 && r.KeepPulledWithin == "":
		return errKeepsNothing
	}
	return nil
}

func (q *Quota) resolve() (storage.Quota, error) {
	quota := storage.Quota{Name: strings.Join(q.Repositories, " ")}
	if len(q.Repositories) == 0 {
		return quota, errNoGlobs
	}
	repositories, err := parseGlobs(q.Repositories)
	if err != nil {
		return quota, err
	}
	quota.Match = repositories.Match
	quota.Bytes, err = q.Size.parse()
	return quota, err
}
