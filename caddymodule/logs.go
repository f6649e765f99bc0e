package caddymodule

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// liveLog hands on to the log of the configuration that runs. What outlives
// configurations logs to it: the logs of those that were replaced may be closed.
type liveLog struct{ current atomic.Pointer[slog.Logger] }

func newLiveLog(current *slog.Logger) *liveLog {
	l := new(liveLog)
	l.use(current)
	return l
}

// use makes another configuration's log the one that is written to.
func (l *liveLog) use(current *slog.Logger) { l.current.Store(current) }

func (l *liveLog) handler() slog.Handler { return l.current.Load().Handler() }

// Enabled implements [slog.Handler].
func (l *liveLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.handler().Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (l *liveLog) Handle(ctx context.Context, record slog.Record) error {
	return l.handler().Handle(ctx, record)
}

// WithAttrs implements [slog.Handler]. What it returns is not for keeps.
func (l *liveLog) WithAttrs(attrs []slog.Attr) slog.Handler { return l.handler().WithAttrs(attrs) }

// WithGroup implements [slog.Handler]. What it returns is not for keeps.
func (l *liveLog) WithGroup(name string) slog.Handler { return l.handler().WithGroup(name) }

// Interface guard
var _ slog.Handler = (*liveLog)(nil)
