package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gofrs/flock"
)

// lockPatience is how long a lock is waited for: a server that is being replaced may
// need a moment to let go.
const lockPatience = 2 * time.Second

// Lock makes this process the only one that owns what the file at path stands for, or
// returns ErrInUse. The operating system releases it with the process, however that ends.
func Lock(ctx context.Context, path string) (release func() error, err error) {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	lock := flock.New(path, flock.SetPermissions(0o600))
	locked, err := lock.TryLockContext(ctx, 50*time.Millisecond)
	if locked {
		return lock.Close, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w, which holds %s", ErrInUse, path)
	}
	return nil, errors.Join(err, lock.Close())
}
