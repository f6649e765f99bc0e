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

// list is what an upstream said a while ago.
type list[T any] struct {
	at    time.Time
	items []T
}

// Tags returns up to n of the upstream's tags in bytewise order after last. If it cannot
// be asked, they are those of which it is known.
func (v *View) Tags(ctx context.Context, repository, last string, n int) ([]string, error) {
	tags, err := v.upstreamTags(ctx)
	if err != nil {
		local, localErr := v.cache.registry.Tags(ctx, repository, last, n)
		if localErr == nil && ctx.Err() == nil && !errors.Is(err, ErrNotAllowed) {
			v.note(Stale)
			return local, nil
		}
		return nil, unknown(err, storage.ErrNameUnknown)
	}
	start, found := slices.BinarySearch(tags, last)
	if found {
		start++
	}
	return tags[start:min(start+n, len(tags))], nil
}

func (v *View) upstreamTags(ctx context.Context) ([]string, error) {
	return remembered(ctx, v, v.cache.lists, "tags", v.mapped.Repository, func(ctx context.Context) ([]string, error) {
		return v.cache.Client.Tags(ctx, v.mapped.Remote)
	})
}

// remembered returns a list that an upstream gave while it is fresh, else asks for it,
// and falls back to the old one.
func remembered[T any](ctx context.Context, v *View, cache interface {
	Get(string) (list[T], bool)
	Add(string, list[T]) bool
}, kind, key string, get func(context.Context) ([]T, error)) ([]T, error) {
	fresh, _ := v.cache.Fresh.For("")
	old, known := cache.Get(key)
	if known && time.Since(old.at) < fresh {
		if err := v.cache.Access.Check(v.mapped.Remote, ""); err != nil {
			return nil, err
		}
		v.note(Hit)
		return old.items, nil
	}
	if err := v.check(kind + " " + key); err != nil {
		return nil, err
	}
	items, err := ask(ctx, v.cache, kind+" "+v.mapped.Repository+" "+key, func(ctx context.Context) ([]T, error) {
		items, err := get(ctx)
		if err != nil {
			return nil, v.remember(kind+" "+key, err)
		}
		cache.Add(key, list[T]{time.Now(), items})
		return items, nil
	})
	switch {
	case err == nil:
		v.note(Miss)
		return items, nil
	case known && ctx.Err() == nil:
		v.note(Stale)
		return old.items, nil
	}
	return nil, err
}

// Referrers returns up to n descriptors of manifests whose subject is the given one:
// those that the upstream knows, or that are here, in the order of their digests.
func (v *View) Referrers(ctx context.Context, repository string, subject digest.Digest, artifactType string, last digest.Digest, n int) ([]imagespec.Descriptor, error) {
	all, err := remembered(ctx, v, v.cache.found, "referrers", repository+" "+subject.String(), func(ctx context.Context) ([]imagespec.Descriptor, error) {
		return v.cache.Client.Referrers(ctx, v.mapped.Remote, subject)
	})
	if errors.Is(err, ErrNotAllowed) {
		return nil, err
	}
	matching := make([]imagespec.Descriptor, 0, len(all))
	for _, desc := range all {
		if desc.Digest > last && (artifactType == "" || desc.ArtifactType == artifactType) {
			matching = append(matching, desc)
		}
	}
	local, err := v.cache.registry.Referrers(ctx, repository, subject, artifactType, last, n)
	if err != nil {
		return nil, err
	}
	matching = append(matching, local...)
	slices.SortStableFunc(matching, func(a, b imagespec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	matching = slices.CompactFunc(matching, func(a, b imagespec.Descriptor) bool { return a.Digest == b.Digest })
	return matching[:min(n, len(matching))], nil
}
