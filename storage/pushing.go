package storage

import (
	"context"
	"time"
)

// touchInterval is how often it is recorded that an upload goes on, if other processes are to
// know.
const touchInterval = time.Minute

// beginPush keeps what was pushed to a repository before, and is not named by a manifest
// yet, and the upload itself, until end is called.
func (r *Registry) beginPush(repository, id string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pushing[repository]++
	untouch := func() {}
	if r.Shared() {
		untouch = r.touchUpload(id)
	}
	return func() {
		untouch()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pushing[repository]--; r.pushing[repository] == 0 {
			delete(r.pushing, repository)
		}
	}
}

// touchUpload records now and then that an upload goes on, until stop is called.
func (r *Registry) touchUpload(id string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ticker := time.NewTicker(r.touchInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			// What cannot be recorded is in a while.
			_ = r.database.Write(ctx, func(tx Tx) error {
				_, err := tx.Exec(`UPDATE uploads SET updated = $1 WHERE id = $2 AND updated < $1`, now(), id)
				return err
			})
		}
	}()
	return cancel
}
