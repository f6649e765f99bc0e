package upstream

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// Repair fetches a blob of a copy that storage has lost, and returns nil once it has it.
func (c *Cache) Repair(ctx context.Context, mapped Mapped, d digest.Digest) error {
	v := &View{cache: c, mapped: mapped, note: func(Result) {}}
	t, _, err := v.transfer(ctx, d)
	if err == nil {
		err = t.awaitEnd(ctx)
	}
	if err != nil && !errors.Is(err, errEnded) {
		return err
	}
	_, err = c.registry.StatBlob(ctx, mapped.Repository, d)
	return err
}
