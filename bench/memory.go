package main

import (
	"context"
	"maps"
	"slices"
	"time"
)

// recordPeak keeps the most memory that any process of a peer's name had.
func (b *bench) recordPeak(p *peer) {
	if p.cmd == nil {
		return
	}
	peak, err := memoryOf(p.cmd.Process.Pid, "VmHWM")
	if err != nil {
		return // it crashed, which whoever asked it something has noticed
	}
	if b.peaks == nil {
		b.peaks = make(map[string]int64)
	}
	b.peaks[p.name] = max(b.peaks[p.name], peak)
}

// measureMemory tells what processes have resident when nobody has asked them anything
// but whether they are up, and the most they had in all measurements before.
func measureMemory(ctx context.Context, b *bench) error {
	peaks := maps.Clone(b.peaks)
	for _, name := range slices.Sorted(maps.Keys(peaks)) {
		b.results.add("memory", "peak MB", name, 0, float64(peaks[name])/1e6)
	}
	return b.fresh(ctx, []string{registry, bareCaddy, distribution, nginx}, func(p *peer, round int) error {
		// What is done at the start is over by then.
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		idle, err := memoryOf(p.cmd.Process.Pid, "VmRSS")
		if err != nil {
			return err
		}
		b.results.add("memory", "idle MB", p.name, round, float64(idle)/1e6)
		return nil
	})
}
