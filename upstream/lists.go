package upstream

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/eblume/caddy-registry/storage"
)

// Tags returns up to n of the upstream's tags in bytewise order after last. If it cannot
// be asked, they are those of which it is known.
func (v *View) Tags(ctx context.Context, repository, last string, n int) ([]string, error) {
	local, localErr := v.cache.registry.Tags(ctx, repository, last, n)
	tags, result, err := remembered(ctx, v, v.cache.lists, "tags", localErr == nil, func(ctx context.Context) ([]string, error) {
		return v.cache.Client.Tags(ctx, v.mapped.Remote)
	})
	switch {
	case err == nil:
		v.note(result)
	case localErr == nil && ctx.Err() == nil && !errors.Is(err, ErrNotAllowed):
		v.note(Stale)
		return local, nil
	default:
		return nil, v.explain(err, storage.ErrNameUnknown)
	}
	start, found := slices.BinarySearch(tags, last)
	if found {
		start++
	}
	return tags[start:min(start+n, len(tags))], nil
}

// remembered returns a list that an upstream gave while it is fresh, else asks for it,
// and falls back to the old one. With something else to fall back to, or that one, the
// upstream is not waited for for long.
func remembered[T any](ctx context.Context, v *View, cache *lists[T], what string, fallback bool, get func(context.Context) ([]T, error)) ([]T, Result, error) {
	c, key := v.cache, v.mapped.Repository+" "+what
	if err := c.Access.Check(v.mapped.Remote, ""); err != nil {
		return nil, "", err
	}
	fresh, _ := c.Fresh.For("")
	old, known := cache.get(key)
	if known && time.Since(old.at) < fresh {
		return old.items, Hit, nil
	}
	if err := v.check(what); err != nil {
		return nil, "", err
	}
	wait := askTimeout
	if known || fallback {
		wait = patience
	}
	items, err := askFor(ctx, c, wait, "list "+key, func(ctx context.Context) ([]T, error) {
		items, err := get(ctx)
		if err != nil {
			return nil, v.remember(what, err)
		}
		cache.put(key, items)
		return items, nil
	})
	if err != nil && known && ctx.Err() == nil {
		return old.items, Stale, nil
	}
	return items, Miss, err
}

// Referrers returns up to n descriptors of manifests whose subject is the given one:
// those that the upstream knows, or that are here, in the order of their digests. That
// there are none is said only if the upstream could be asked.
func (v *View) Referrers(ctx context.Context, repository string, subject digest.Digest, artifactType string, last digest.Digest, n int) ([]imagespec.Descriptor, error) {
	local, err := v.cache.registry.Referrers(ctx, repository, subject, artifactType, last, n)
	if err != nil {
		return nil, err
	}
	fallback := len(local) > 0 || last != ""
	all, result, err := remembered(ctx, v, v.cache.found, "referrers "+subject.String(), fallback, func(ctx context.Context) ([]imagespec.Descriptor, error) {
		return v.cache.Client.Referrers(ctx, v.mapped.Remote, subject)
	})
	switch {
	case err == nil:
		v.note(result)
	case fallback && ctx.Err() == nil && !errors.Is(err, ErrNotAllowed):
		v.note(Stale)
		return local, nil
	default:
		return nil, v.explain(err, storage.ErrNameUnknown)
	}
	for _, desc := range all {
		if desc.Digest > last && (artifactType == "" || desc.ArtifactType == artifactType) {
			local = append(local, desc)
		}
	}
	slices.SortStableFunc(local, func(a, b imagespec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	local = slices.CompactFunc(local, func(a, b imagespec.Descriptor) bool { return a.Digest == b.Digest })
	return local[:min(n, len(local))], nil
}
