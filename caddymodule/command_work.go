package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/eblume/caddy-registry/storage"
)

// errInterrupted is what a command ends with that was interrupted.
var errInterrupted = errors.New("interrupted; nothing is lost, and the same command goes on with it")

// withWork makes a command of long work: it shows how far that is, and is ended in an
// orderly way by an interrupt. More apps are loaded as withApps does.
func withWork(run func(ctx context.Context, client *controlClient, told func(storage.Progress), args []string) error, more ...string) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		cmd.SetContext(ctx)
		return withApps(func(ctx context.Context, client *controlClient, args []string) error {
			show := newShow(cmd.OutOrStdout(), cmd.ErrOrStderr())
			err := run(ctx, client, show.tell, args)
			show.end()
			if err != nil && ctx.Err() != nil {
				return errInterrupted
			}
			return err
		}, more...)(cmd, args)
	}
}

// show shows how far work is: by a bar on a terminal, and otherwise by a line now and then.
// What it finds goes to stdout.
type show struct {
	out, err io.Writer
	bar      *progressbar.ProgressBar // nil where there is no terminal, or nothing to show
	terminal bool
	last     time.Time
}

// plainInterval is how often a line tells how far work is.
const plainInterval = 10 * time.Second

func newShow(out, stderr io.Writer) *show {
	s := &show{out: out, err: stderr, last: time.Now()}
	if file, ok := stderr.(*os.File); ok {
		s.terminal = term.IsTerminal(int(file.Fd()))
	}
	return s
}

func (s *show) tell(p storage.Progress) {
	if p.Line != "" {
		s.clear()
		fmt.Fprintln(s.out, p.Line)
		return
	}
	if s.terminal {
		s.draw(p)
		return
	}
	if time.Since(s.last) >= plainInterval {
		s.last = time.Now()
		fmt.Fprintln(s.err, describeProgress(p))
	}
}

func (s *show) draw(p storage.Progress) {
	if s.bar == nil {
		options := []progressbar.Option{
			progressbar.OptionSetWriter(s.err), progressbar.OptionThrottle(progressInterval), progressbar.OptionClearOnFinish(),
			progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(true), progressbar.OptionFullWidth(),
		}
		if p.Unit == "bytes" {
			options = append(options, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true))
		} else {
			options = append(options, progressbar.OptionSetDescription(p.Unit))
		}
		total := p.Total
		if total == 0 {
			total = -1 // it only turns
		}
		s.bar = progressbar.NewOptions64(total, options...)
	}
	if p.Total > 0 && p.Total != s.bar.GetMax64() {
		s.bar.ChangeMax64(p.Total)
	}
	_ = s.bar.Set64(p.Done) // the terminal may be gone
}

// clear removes the bar, which is drawn again with the next progress.
func (s *show) clear() {
	if s.bar != nil {
		_ = s.bar.Clear()
	}
}

func (s *show) end() {
	if s.bar != nil {
		_ = s.bar.Finish()
	}
}

func describeProgress(p storage.Progress) string {
	count := func(n int64) string {
		if p.Unit == "bytes" {
			return humanize.IBytes(uint64(n))
		}
		return humanize.Comma(n)
	}
	text := count(p.Done)
	if p.Total > 0 {
		text += fmt.Sprintf(" of %s, %d%%", count(p.Total), 100*p.Done/p.Total)
	}
	if p.Unit != "bytes" {
		text += " " + p.Unit
	}
	return text
}
