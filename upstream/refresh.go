package upstream

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/eblume/caddy-registry/storage"
)

// Refresh asks the upstream what a tag names now, however fresh the copy is, and returns
// that, and what it was: empty if the tag was not here.
func (c *Cache) Refresh(ctx context.Context, mapped Mapped, tag string) (is, was digest.Digest, err error) {
	v := &View{cache: c, mapped: mapped, note: func(Result) {}}
	if err := c.Access.Check(mapped.Remote, ""); err != nil {
		return "", "", err
	}
	ref := storage.Reference{Tag: tag}
	m, err := c.registry.Manifest(ctx, mapped.Repository, ref)
	if isAbsent(err) {
		if m, err = v.getManifest(ctx, ref); err == nil {
			err = v.keepManifest(ctx, m, tag)
		}
		if err != nil {
			return "", "", err
		}
		return m.Digest, "", nil
	}
	if err != nil {
		return "", "", err
	}
	now, err := v.askTag(ctx, tag, m)
	if err != nil {
		return "", m.Digest, err
	}
	return now.Digest, m.Digest, nil
}
