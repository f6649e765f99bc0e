package upstreamtest

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

const (
	// firstStep is sent without delay: the first byte of a body comes with its header.
	firstStep = 4 << 10
	// maxStep is the most that is written at a time.
	maxStep = 256 << 10
	// stepTime is how long a step takes at the rate that is set. Each is a wake-up, of
	// which dozens of bodies at once make many.
	stepTime = 5 * time.Millisecond
	// catchUp is how far a body may have fallen behind and still arrive in time, as it
	// does on a machine that is busy with others.
	catchUp = 50 * time.Millisecond
)

// paced is a body that is sent at a rate.
type paced struct {
	ctx     context.Context
	w       http.ResponseWriter
	limiter *rate.Limiter // nil without limit
	step    int
	first   bool
	sent    func(n int)
}

func newPaced(ctx context.Context, w http.ResponseWriter, bytesPerSecond int64, sent func(n int)) *paced {
	p := &paced{ctx: ctx, w: w, step: maxStep, first: true, sent: sent}
	if bytesPerSecond <= 0 {
		return p
	}
	per := func(d time.Duration) int { return int(float64(bytesPerSecond) * d.Seconds()) }
	p.step = max(1, min(maxStep, per(stepTime)))
	burst := max(p.step, firstStep, per(catchUp))
	p.limiter = rate.NewLimiter(rate.Limit(bytesPerSecond), burst)
	p.limiter.AllowN(time.Now(), burst) // a bucket that begins full would be a head start
	return p
}

// write sends content, or cuts the connection if nobody reads any more.
func (p *paced) write(content []byte) {
	for len(content) > 0 {
		step := min(p.step, len(content))
		if p.first {
			step = min(firstStep, len(content))
		}
		if p.limiter != nil {
			if p.first {
				p.limiter.ReserveN(time.Now(), step) // the next step waits for this one too
			} else if p.limiter.WaitN(p.ctx, step) != nil {
				panic(http.ErrAbortHandler)
			}
		}
		p.first = false
		p.sent(step)
		n, err := p.w.Write(content[:step])
		if err != nil || p.ctx.Err() != nil {
			p.sent(n - step)
			panic(http.ErrAbortHandler)
		}
		content = content[step:]
	}
}

func (p *paced) flush() { _ = http.NewResponseController(p.w).Flush() }
