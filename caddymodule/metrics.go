package caddymodule

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/eblume/caddy-registry/upstream"
)

// What is counted. The collectors outlive configurations, each of which has a metrics
// registry of its own.
var (
	cacheRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_cache_requests_total",
		Help: "Answers of the pull-through cache, by where they came from.",
	}, []string{"upstream", "result"})
	cacheBytes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_cache_bytes_total",
		Help: "Bytes that clients were sent of what was cached, and bytes that were fetched from upstreams.",
	}, []string{"upstream", "source"})
	upstreamRequests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_upstream_requests_total",
		Help: "Requests sent to upstreams, their token services and where they redirect to, by status or error.",
	}, []string{"upstream", "code"})
	upstreamRateLimit = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "registry_upstream_ratelimit_remaining",
		Help: "How many more manifests the upstream said that it gives.",
	}, []string{"upstream"})
	upstreamUp = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "registry_upstream_up",
		Help: "1 if the upstream answers, 0 if it is not asked for a while since it did not.",
	}, []string{"upstream"})
	transfersActive = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "registry_transfers_active",
		Help: "Blobs on their way from the upstream.",
	}, []string{"upstream"})
	upstreamMismatches = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "registry_upstream_mismatches_total",
		Help: "Blobs that were not what their digest says, and were thrown away.",
	}, []string{"upstream"})
)

var (
	collections = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "registry_gc_runs_total",
		Help: "Garbage collections that came to an end.",
	})
	collectedBytes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "registry_gc_freed_bytes_total",
		Help: "Bytes of blobs that garbage collections removed.",
	})
)

var authFailures = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "registry_auth_failures_total",
	Help: "Attempts to prove who one is that failed, by what was wrong.",
}, []string{"reason"})

func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{
		cacheRequests, cacheBytes, upstreamRequests, upstreamRateLimit, upstreamUp, transfersActive, upstreamMismatches, authFailures, keysExpire,
		collections, collectedBytes, requests, requestDuration, stored,
	} {
		err := registry.Register(collector)
		if !errors.As(err, new(prometheus.AlreadyRegisteredError)) && err != nil {
			return err
		}
	}
	return nil
}

func clientMetrics(name string) upstream.ClientMetrics {
	up := upstreamUp.WithLabelValues(name)
	return upstream.ClientMetrics{
		Request:            func(code string) { upstreamRequests.WithLabelValues(name, code).Inc() },
		RateLimitRemaining: func(n float64) { upstreamRateLimit.WithLabelValues(name).Set(n) },
		Up: func(isUp bool) {
			up.Set(0)
			if isUp {
				up.Set(1)
			}
		},
	}
}

func cacheMeter(name string) upstream.Meter {
	served := cacheBytes.WithLabelValues(name, "cache")
	received := cacheBytes.WithLabelValues(name, "upstream")
	transfers := transfersActive.WithLabelValues(name)
	mismatches := upstreamMismatches.WithLabelValues(name)
	results := make(map[upstream.Result]prometheus.Counter)
	for _, result := range []upstream.Result{upstream.Hit, upstream.Miss, upstream.Revalidated, upstream.Stale, upstream.Negative} {
		results[result] = cacheRequests.WithLabelValues(name, string(result))
	}
	return upstream.Meter{
		Result:    func(r upstream.Result) { results[r].Inc() },
		Received:  func(n int64) { received.Add(float64(n)) },
		Served:    func(n int64) { served.Add(float64(n)) },
		Transfers: func(delta int) { transfers.Add(float64(delta)) },
		Mismatch:  mismatches.Inc,
	}
}
