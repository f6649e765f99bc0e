package upstream

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuotaIsKnownFromAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var remaining atomic.Value
		var told []float64
		c, _ := memoryClient(t, Config{Metrics: ClientMetrics{RateLimitRemaining: func(n float64) { told = append(told, n) }}},
			func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ratelimit-limit", "100;w=21600")
				w.Header().Set("ratelimit-remaining", remaining.Load().(string))
				answerImage()(w, r)
			})
		if c.QuotaLow() {
			t.Error("low before anything is known")
		}
		for _, test := range []struct {
			header string
			low    bool
		}{{"76;w=21600", false}, {"6;w=21600", false}, {"5;w=21600", true}, {"nonsense", true}, {"2", true}, {"0;w=60", true}} {
			remaining.Store(test.header)
			if err := pull(t, c); err != nil {
				t.Fatal(err)
			}
			if c.QuotaLow() != test.low {
				t.Errorf("%s: low is %v", test.header, c.QuotaLow())
			}
		}
		if !slices.Equal(told, []float64{76, 6, 5, 2, 0}) {
			t.Errorf("told %v", told)
		}
		time.Sleep(time.Minute)
		if c.QuotaLow() {
			t.Error("still low when the window is over")
		}
	})
}
