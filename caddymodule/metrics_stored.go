package caddymodule

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/eblume/caddy-registry/storage"
)

// keyExpiry tells when API keys end, of all registries that are open. It is asked for
// when metrics are, so that it is never behind. Jobs' keys end within the hour: there
// would be no end of them.
type keyExpiry struct{ desc *prometheus.Desc }

var keysExpire = keyExpiry{prometheus.NewDesc(
	"registry_api_key_expiry_timestamp_seconds",
	"When an API key that works ends, by its UUID, in seconds since 1970.",
	[]string{"key"}, nil,
)}

// Describe implements [prometheus.Collector].
func (k keyExpiry) Describe(descs chan<- *prometheus.Desc) { descs <- k.desc }

// Collect implements [prometheus.Collector].
func (k keyExpiry) Collect(metrics chan<- prometheus.Metric) {
	now := time.Now()
	pool.Range(func(_, value any) bool {
		opened, ok := value.(*openRegistry)
		if !ok {
			return true
		}
		keys, err := opened.registry.Accounts().Keys(context.Background())
		if err != nil {
			metrics <- prometheus.NewInvalidMetric(k.desc, err)
			return true
		}
		for i := range keys {
			if key := &keys[i]; key.Job == "" && !key.Ended(now) && !key.Expires.IsZero() {
				metrics <- prometheus.MustNewConstMetric(k.desc, prometheus.GaugeValue, float64(key.Expires.Unix()), key.ID)
			}
		}
		return true
	})
}

// contents tells what all registries that are open hold. It is asked for when metrics are.
type contents struct{ bytes, repositories, free, size, damaged *prometheus.Desc }

var stored = contents{
	bytes: prometheus.NewDesc("registry_storage_bytes",
		"Bytes of the blobs of an upstream's copies, or of this registry's own repositories, each blob counted once.", []string{"namespace"}, nil),
	repositories: prometheus.NewDesc("registry_repositories",
		"Repositories with something in them, of an upstream or this registry's own.", []string{"namespace"}, nil),
	free: prometheus.NewDesc("registry_storage_free_bytes",
		"Bytes that the disk with the blobs has left.", []string{"directory"}, nil),
	size: prometheus.NewDesc("registry_storage_size_bytes",
		"Bytes that the disk with the blobs has in all.", []string{"directory"}, nil),
	damaged: prometheus.NewDesc("registry_damaged_blobs",
		"Blobs that are not served, since their bytes were found to be others.", nil, nil),
}

// Describe implements [prometheus.Collector].
func (c contents) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.bytes, c.repositories, c.free, c.size, c.damaged} {
		descs <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c contents) Collect(metrics chan<- prometheus.Metric) {
	ctx := context.Background()
	total := make(map[string]storage.Namespace)
	var damaged int64
	pool.Range(func(_, value any) bool {
		opened, ok := value.(*openRegistry)
		if !ok {
			return true
		}
		namespaces, err := opened.registry.Namespaces(ctx)
		if err != nil {
			metrics <- prometheus.NewInvalidMetric(c.bytes, err)
		}
		for _, n := range namespaces {
			sum := total[n.Name]
			total[n.Name] = storage.Namespace{Bytes: sum.Bytes + n.Bytes, Repositories: sum.Repositories + n.Repositories}
		}
		n, err := opened.registry.Damaged(ctx)
		if err != nil {
			metrics <- prometheus.NewInvalidMetric(c.damaged, err)
		}
		damaged += n
		if space, bounded, err := opened.registry.Space(); err == nil && bounded {
			metrics <- prometheus.MustNewConstMetric(c.free, prometheus.GaugeValue, float64(space.Free), opened.directory)
			metrics <- prometheus.MustNewConstMetric(c.size, prometheus.GaugeValue, float64(space.Total), opened.directory)
		}
		return true
	})
	for name, n := range total {
		metrics <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(n.Bytes), name)
		metrics <- prometheus.MustNewConstMetric(c.repositories, prometheus.GaugeValue, float64(n.Repositories), name)
	}
	metrics <- prometheus.MustNewConstMetric(c.damaged, prometheus.GaugeValue, float64(damaged))
}
