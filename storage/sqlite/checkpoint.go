package sqlite

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
)

// checkpointPages is how long the write-ahead log grows before its pages are brought to
// the database: 16 MiB. Pages that are written again and again are then brought once.
const checkpointPages = 4000

// checkpointer brings the pages of the write-ahead log to the database. SQLite would do so
// in a commit, which all that is written waits for. Here most of it is done beside the
// commits, on a connection of its own; what was committed meanwhile, which is little, is
// done between two of them, so that the log begins anew.
type checkpointer struct {
	writer *sqlite3.Conn // only for the goroutine that commits
	own    *sql.Conn
	// logged is how many pages the log has; due is when it is next looked after. Both are
	// the committing goroutine's.
	logged, due int
	started     bool
	passed      chan struct{} // gets a value when the pass beside the commits is over
	passes      sync.WaitGroup
}

// newCheckpointer takes checkpoints off the commits of a connection.
func newCheckpointer(ctx context.Context, db *sql.DB, writer *sql.Conn) (*checkpointer, error) {
	c := &checkpointer{due: checkpointPages, passed: make(chan struct{}, 1)}
	err := writer.Raw(func(conn any) error {
		c.writer = conn.(driver.Conn).Raw()
		c.writer.WALHook(func(_ *sqlite3.Conn, _ string, pages int) error {
			c.logged = pages
			return nil
		})
		return nil
	})
	if err == nil {
		c.own, err = db.Conn(ctx)
	}
	return c, err
}

// committed is to be called after each commit, by who commits. That a checkpoint fails, as
// it may on a full disk, is no error: what it would bring is durable in the log.
func (c *checkpointer) committed() {
	if c.logged < c.due {
		return
	}
	if !c.started {
		c.started = true
		c.passes.Go(func() {
			_ = c.own.Raw(func(conn any) error {
				_, _, err := conn.(driver.Conn).Raw().WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE)
				return err
			})
			c.passed <- struct{}{}
		})
		return
	}
	select {
	case <-c.passed:
	default:
		return
	}
	c.started = false
	c.due = checkpointPages
	if !c.finish() {
		c.due += c.logged
	}
}

// finish brings all that is left, and reports whether it did. Who began to read before the
// last commit keeps what came after that from being brought; most are done in a moment.
func (c *checkpointer) finish() bool {
	for range 5 {
		logged, brought, err := c.writer.WALCheckpoint("main", sqlite3.CHECKPOINT_PASSIVE)
		if err != nil {
			return false
		}
		if brought == logged {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// close waits for a checkpoint under way.
func (c *checkpointer) close() error {
	c.passes.Wait()
	return c.own.Close()
}
