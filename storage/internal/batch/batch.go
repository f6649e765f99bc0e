// Package batch has the writes of many share one transaction: while one is committed, which
// is mostly waiting for a disk or a server, further writes gather, and make the next. So a
// lone write is committed at once, and many at a time share the price of one.
package batch

import (
	"errors"
	"fmt"
	"sync"

	"github.com/eblume/caddy-registry/storage"
)

// maxJobs bounds how many writes share one commit, and so how long the first of them waits
// for the last.
const maxJobs = 256

// ErrClosed is what a Write after Close returns.
var ErrClosed = errors.New("database is closed")

// Job is one write.
type Job struct {
	f    func(storage.Tx) error
	done chan struct{}
	// Err is what came of it alone. What goes wrong with all of a batch comes beside it.
	Err error
}

// Run does what the job is for. A panic is its error: it is some request's, not the other
// ones'.
func (j *Job) Run(tx storage.Tx) {
	defer func() {
		if p := recover(); p != nil {
			j.Err = fmt.Errorf("panic in a write: %v", p)
		}
	}()
	j.Err = j.f(tx)
}

// Writer runs writes one after the other.
type Writer struct {
	commit func([]*Job) error
	rest   func()
	jobs   chan *Job
	done   chan struct{}

	mu     sync.RWMutex // held for writing by Close, so that no job is sent after it
	closed bool
}

// NewWriter returns a writer that has commit run some jobs in one transaction. The error
// of commit is that of all of them, and then nothing is written. rest is called after each
// commit, when those who waited for that are told.
func NewWriter(commit func([]*Job) error, rest func()) *Writer {
	w := &Writer{commit: commit, rest: rest, jobs: make(chan *Job, maxJobs), done: make(chan struct{})}
	go w.run()
	return w
}

// Write returns when f was run and all that it did is durable, or is undone.
func (w *Writer) Write(f func(storage.Tx) error) error {
	j := &Job{f: f, done: make(chan struct{})}
	w.mu.RLock()
	if w.closed {
		w.mu.RUnlock()
		return ErrClosed
	}
	w.jobs <- j
	w.mu.RUnlock()
	<-j.done
	return j.Err
}

// Close returns when all writes that were begun are done.
func (w *Writer) Close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.jobs)
	}
	w.mu.Unlock()
	<-w.done
}

func (w *Writer) run() {
	defer close(w.done)
	batch := make([]*Job, 0, maxJobs)
	for first := range w.jobs {
		batch = append(batch[:0], first)
		for more := true; more && len(batch) < maxJobs; {
			select {
			case j, open := <-w.jobs:
				if open {
					batch = append(batch, j)
				}
				more = open
			default:
				more = false
			}
		}
		if err := w.commit(batch); err != nil {
			for _, j := range batch {
				j.Err = errors.Join(j.Err, err)
			}
		}
		for _, j := range batch {
			close(j.done)
		}
		w.rest()
	}
}
