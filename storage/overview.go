package storage

import (
	"context"
	"time"
)

// Overview is what there is, for people who look after a registry.
type Overview struct {
	Stats
	// Evictable is how many bytes of blobs only copies of upstreams' repositories hold.
	Evictable int64 `json:"evictable_bytes"`
	// Deleted is what was deleted and can be restored still: manifests, and bytes of blobs
	// that nothing else holds.
	DeletedManifests int64 `json:"deleted_manifests"`
	DeletedBytes     int64 `json:"deleted_bytes"`
	// Damaged is how many blobs are not served, since their bytes were found to be others.
	Damaged    int64        `json:"damaged"`
	Namespaces []Namespace  `json:"namespaces"`
	Quotas     []QuotaUsage `json:"quotas"`
	// Collected and Verified tell when that was last done; zero: never.
	Collected time.Time `json:"collected,omitzero"`
	Verified  time.Time `json:"verified,omitzero"`
}

// Namespace is the copies of one upstream's repositories, or this registry's own.
type Namespace struct {
	Name         string `json:"name"` // the upstream's, or "private"
	Repositories int64  `json:"repositories"`
	Bytes        int64  `json:"bytes"` // of blobs, each counted once
}

// QuotaUsage is how far a quota is used.
type QuotaUsage struct {
	Name  string `json:"name"`
	Used  int64  `json:"used"`  // bytes
	Bytes int64  `json:"bytes"` // that may be
}

// Overview tells what there is.
func (r *Registry) Overview(ctx context.Context) (Overview, error) {
	stats, err := r.Stats(ctx)
	o := Overview{Stats: stats, Namespaces: []Namespace{}, Quotas: []QuotaUsage{}}
	if err != nil {
		return o, err
	}
	read := r.database.Read(ctx)
	err = read.QueryRow(`
		SELECT coalesce((SELECT bytes FROM usage WHERE name = 'copies'), 0),
			(SELECT count(*) FROM deleted_manifests),
			(SELECT coalesce(sum(size), 0) FROM blobs b
				WHERE EXISTS (SELECT 1 FROM deleted_blobs WHERE blob = b.id) AND NOT EXISTS (SELECT 1 FROM repository_blobs WHERE blob = b.id))`).
		Scan(&o.Evictable, &o.DeletedManifests, &o.DeletedBytes)
	if err != nil {
		return o, err
	}
	if o.Damaged, err = r.Damaged(ctx); err != nil {
		return o, err
	}
	namespaces, err := r.Namespaces(ctx)
	if err != nil {
		return o, err
	}
	o.Namespaces = append(o.Namespaces, namespaces...)
	if quotas := r.quotas.Load(); quotas != nil {
		for _, q := range *quotas {
			used, err := usage(read, usageQuota+q.Name)
			if err != nil {
				return o, err
			}
			o.Quotas = append(o.Quotas, QuotaUsage{q.Name, used, q.Bytes})
		}
	}
	if o.Collected, err = r.LastRun(ctx, RunCollect, nil); err != nil {
		return o, err
	}
	o.Verified, err = r.LastRun(ctx, RunVerify, nil)
	return o, err
}

// Damaged returns how many blobs are not served, since their bytes were found to be others.
func (r *Registry) Damaged(ctx context.Context) (n int64, err error) {
	err = r.database.Read(ctx).QueryRow(`SELECT count(*) FROM blobs WHERE damaged IS NOT NULL`).Scan(&n)
	return n, err
}

// Namespaces tells what each upstream's copies hold, and this registry's own repositories.
func (r *Registry) Namespaces(ctx context.Context) ([]Namespace, error) {
	rows, err := r.database.Read(ctx).Query(`
		SELECT n.name, n.repositories, coalesce(u.bytes, 0) FROM (
			SELECT coalesce(upstream, $1) AS name, count(*) AS repositories FROM repositories
			WHERE EXISTS (SELECT 1 FROM manifests WHERE repository = repositories.id)
			GROUP BY coalesce(upstream, $1)) n
		LEFT JOIN usage u ON u.name = $2 || n.name
		ORDER BY n.name`, privateNamespace, usageNamespace)
	return scanAll(rows, err, func(n *Namespace) []any { return []any{&n.Name, &n.Repositories, &n.Bytes} })
}
