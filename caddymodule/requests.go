package caddymodule

import (
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/eblume/caddy-registry/distribution"
)

var (
	requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_requests_total",
		Help: "Requests of the distribution API that were answered, by what they were for and the status.",
	}, []string{"operation", "code"})
	requestDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "registry_request_duration_seconds",
		Help: "How long requests of the distribution API took until all was sent.",
		// From a manifest of a moment to a layer of an hour.
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800},
	}, []string{"operation"})
)

// count counts an answer. It returns the writer to answer to, which hands files on as they
// are, so that the kernel still sends them, and what is to be called when that is done.
func count(w http.ResponseWriter, r *http.Request, target distribution.Target) (_ http.ResponseWriter, done func()) {
	began := time.Now()
	recorder := caddyhttp.NewResponseRecorder(w, nil, nil)
	return recorder, func() {
		operation := target.Operation(r.Method)
		code := http.StatusOK // if nobody said so
		if status := recorder.Status(); status != 0 {
			code = status
		}
		requests.WithLabelValues(operation, strconv.Itoa(code)).Inc()
		requestDuration.WithLabelValues(operation).Observe(time.Since(began).Seconds())
	}
}
