package storage

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
)

// Quota limits how many bytes the blobs of some of this registry's own repositories may
// have, those that several of them hold counted once.
type Quota struct {
	// Name tells quotas apart, and is told to who meets it: the globs that it is for.
	Name  string
	Match func(repository string) bool
	Bytes int64
}

// Names of rows of the table usage, or what they begin with.
const (
	usageCopies      = "copies"
	usageNamespace   = "namespace "
	usageQuota       = "quota "
	privateNamespace = "private" // of this registry's own repositories
)

// SetQuotas makes quotas those that pushes are held to from now on. What they are to count
// is counted once, before that. If other processes may have other quotas, and do not count
// for these, it is counted each time, and until then something else may be counted.
func (r *Registry) SetQuotas(ctx context.Context, quotas []Quota) error {
	r.quotas.Store(&quotas)
	if r.Shared() {
		return unlessMoving(r.recountQuotas(ctx, quotas))
	}
	return unlessMoving(r.database.Write(ctx, func(tx Tx) error {
		known, err := scanStrings(tx.Query(`SELECT name FROM usage WHERE name LIKE 'quota %'`))
		if err != nil {
			return err
		}
		for _, name := range known {
			if slices.ContainsFunc(quotas, func(q Quota) bool { return name == usageQuota+q.Name }) {
				continue
			}
			// Nobody keeps it up to date: it would be wrong when it is wanted again.
			if _, err := tx.Exec(`DELETE FROM usage WHERE name = $1`, name); err != nil {
				return err
			}
		}
		for _, q := range quotas {
			if slices.Contains(known, usageQuota+q.Name) {
				continue
			}
			bytes, err := countQuota(tx, q)
			if err == nil {
				err = addUsage(tx, usageQuota+q.Name, bytes)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// recountQuotas corrects what is counted for quotas by as much as that was wrong at one
// moment, so that nobody who writes need wait while it is counted. What is added meanwhile
// counts already, here and by others that have the same quotas.
func (r *Registry) recountQuotas(ctx context.Context, quotas []Quota) error {
	if len(quotas) == 0 {
		return nil
	}
	// Two would make the same correction.
	release, err := r.alone(ctx, r.counting, "quotas", nil)
	if err != nil {
		return err
	}
	defer release()
	// When this is written all that knows other quotas has been.
	if err := r.database.Write(ctx, func(Tx) error { return nil }); err != nil {
		return err
	}
	missing := make([]int64, len(quotas))
	err = r.readMoment(ctx, func(read Querier) error {
		for i, q := range quotas {
			counted, err := usage(read, usageQuota+q.Name)
			if err != nil {
				return err
			}
			bytes, err := countQuota(read, q)
			if err != nil {
				return err
			}
			missing[i] = bytes - counted
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.database.Write(ctx, func(tx Tx) error {
		for i, q := range quotas {
			if err := addUsage(tx, usageQuota+q.Name, missing[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// countQuota returns how many bytes there are of what a quota is for.
func countQuota(read Querier, q Quota) (bytes int64, err error) {
	names, err := scanStrings(read.Query(`SELECT name FROM repositories WHERE upstream IS NULL ORDER BY id`))
	if err != nil {
		return 0, fmt.Errorf("quota %s: %w", q.Name, err)
	}
	counted := make(map[int64]bool)
	for _, name := range names {
		if !q.Match(name) {
			continue
		}
		if err := countBlobs(read, name, counted, &bytes); err != nil {
			return 0, fmt.Errorf("quota %s: %w", q.Name, err)
		}
	}
	return bytes, nil
}

// countBlobs adds the sizes of a repository's blobs that are not counted yet.
func countBlobs(read Querier, repository string, counted map[int64]bool, bytes *int64) error {
	rows, err := read.Query(`
		SELECT b.id, b.size FROM repositories r
		JOIN repository_blobs rb ON rb.repository = r.id
		JOIN blobs b ON b.id = rb.blob WHERE r.name = $1`, repository)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var blob, size int64
		if err := rows.Scan(&blob, &size); err != nil {
			return err
		}
		if !counted[blob] {
			counted[blob] = true
			*bytes += size
		}
	}
	return rows.Err()
}

// CheckQuota returns ErrQuota if a repository may not come to hold a blob of n bytes, of
// which the digest may be empty if it is not known.
func (r *Registry) CheckQuota(ctx context.Context, repository string, d digest.Digest, n int64) error {
	left, err := r.quotaLeft(ctx, repository, d)
	if err != nil {
		return err
	}
	return left.check(n)
}

// quotaLeft is how many bytes more a repository may hold.
type quotaLeft struct {
	bytes int64
	quota *Quota // that says so; nil: none does
	used  int64  // under it
}

func (l quotaLeft) check(n int64) error {
	if l.quota != nil && n > l.bytes {
		return overQuota(*l.quota, l.used)
	}
	return nil
}

// reader returns what reads from a source until that would be too much.
func (l quotaLeft) reader(source io.Reader, had int64) io.Reader {
	if l.quota == nil {
		return source
	}
	return &quotaReader{source, l, had}
}

type quotaReader struct {
	io.Reader
	left quotaLeft
	had  int64
}

func (q *quotaReader) Read(p []byte) (int, error) {
	n, err := q.Reader.Read(p)
	q.had += int64(n)
	if over := q.left.check(q.had); over != nil {
		return 0, over
	}
	return n, err
}

// quotaLeft returns what the tightest quota leaves of those under which no repository
// holds the blob.
func (r *Registry) quotaLeft(ctx context.Context, repository string, d digest.Digest) (quotaLeft, error) {
	var tightest quotaLeft
	quotas := r.quotasOf(repository)
	if len(quotas) == 0 {
		return tightest, nil
	}
	read := r.database.Read(ctx)
	if d != "" {
		var err error
		if quotas, err = quotasWithout(read, quotas, d); err != nil {
			return tightest, err
		}
	}
	for _, q := range quotas {
		used, err := usage(read, usageQuota+q.Name)
		if err != nil {
			return tightest, err
		}
		if tightest.quota == nil || q.Bytes-used < tightest.bytes {
			tightest = quotaLeft{q.Bytes - used, &q, used}
		}
	}
	return tightest, nil
}

// quotasWithout returns those under which no repository holds a blob.
func quotasWithout(q Querier, quotas []Quota, d digest.Digest) ([]Quota, error) {
	var blob int64
	err := q.QueryRow(`SELECT id FROM blobs WHERE digest = $1`, d.String()).Scan(&blob)
	if errors.Is(err, sql.ErrNoRows) {
		return quotas, nil
	}
	if err != nil {
		return nil, err
	}
	holders, err := otherHolders(q, 0, blob, "", quotas) // there is no repository 0
	return holders.quotas, err
}

func overQuota(q Quota, used int64) error {
	return fmt.Errorf("%w: %s of %s are used under quota %s; delete what is not needed, it counts no more at once",
		ErrQuota, humanize.IBytes(uint64(used)), humanize.IBytes(uint64(q.Bytes)), q.Name)
}

func (r *Registry) quotasOf(repository string) []Quota {
	var all []Quota
	if quotas := r.quotas.Load(); quotas != nil {
		for _, q := range *quotas {
			if q.Match(repository) {
				all = append(all, q)
			}
		}
	}
	return all
}

// usage returns how many bytes are counted under a name.
func usage(q Querier, name string) (int64, error) {
	var bytes int64
	err := q.QueryRow(`SELECT bytes FROM usage WHERE name = $1`, name).Scan(&bytes)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return bytes, err
}

// CopiedBytes returns how many bytes the blobs have that only copies of upstreams'
// repositories hold, which is what eviction could free at most.
func (r *Registry) CopiedBytes(ctx context.Context) (int64, error) {
	return usage(r.database.Read(ctx), usageCopies)
}

// count tells the table usage that a repository came to hold a blob (sign is 1), or
// ceased to (-1), which the facts say by now. ErrQuota: it may not come to.
func (r *Registry) count(tx Tx, repository, blob, sign int64) error {
	var size int64
	var name, upstream string
	err := tx.QueryRow(`SELECT b.size, r.name, coalesce(r.upstream, '') FROM blobs b, repositories r WHERE b.id = $1 AND r.id = $2`, blob, repository).
		Scan(&size, &name, &upstream)
	if err != nil {
		return err
	}
	var quotas []Quota
	if upstream == "" {
		quotas = r.quotasOf(name)
	}
	others, err := otherHolders(tx, repository, blob, upstream, quotas)
	if err != nil {
		return err
	}
	if !others.namespace {
		if err := addUsage(tx, usageNamespace+cmp.Or(upstream, privateNamespace), sign*size); err != nil {
			return err
		}
	}
	switch {
	case upstream != "" && !others.own && !others.copies:
		err = setEvictable(tx, blob, size, sign > 0)
	case upstream == "" && !others.own && others.copies:
		err = setEvictable(tx, blob, size, sign < 0)
	}
	for _, q := range others.quotas {
		if err == nil {
			err = addQuota(tx, q, sign*size)
		}
	}
	return err
}

// setEvictable records whether only copies hold a blob.
func setEvictable(tx Tx, blob, size int64, evictable bool) error {
	if !evictable {
		if _, err := tx.Exec(`UPDATE blobs SET evictable = NULL WHERE id = $1`, blob); err != nil {
			return err
		}
		return addUsage(tx, usageCopies, -size)
	}
	if _, err := tx.Exec(`UPDATE blobs SET evictable = 1 WHERE id = $1`, blob); err != nil {
		return err
	}
	return addUsage(tx, usageCopies, size)
}

// holders is which repositories hold a blob.
type holders struct {
	own       bool    // some of this registry's own do
	copies    bool    // some copy does; it may not be known if own is true
	namespace bool    // some one of the namespace does
	quotas    []Quota // under which none does
}

// otherHolders returns who holds a blob besides one repository. It looks at no more of
// them than it takes: all images may share a blob.
func otherHolders(q Querier, repository, blob int64, upstream string, quotas []Quota) (holders, error) {
	found := holders{quotas: quotas}
	for h, err := range eachHolder(q, blob) {
		if err != nil {
			return found, err
		}
		if h.repository == repository {
			continue
		}
		found.namespace = found.namespace || h.upstream == upstream
		if h.upstream != "" {
			found.copies = true
		} else {
			found.own = true
			found.quotas = slices.DeleteFunc(found.quotas, func(q Quota) bool { return q.Match(h.name) })
		}
		if found.namespace && len(found.quotas) == 0 {
			break
		}
	}
	return found, nil
}

// addQuota adds to what is counted under a quota, or returns ErrQuota.
func addQuota(tx Tx, q Quota, bytes int64) error {
	if err := addUsage(tx, usageQuota+q.Name, bytes); err != nil || bytes < 0 {
		return err
	}
	used, err := usage(tx, usageQuota+q.Name)
	if err == nil && used > q.Bytes {
		err = overQuota(q, used-bytes)
	}
	return err
}

func addUsage(tx Tx, name string, bytes int64) error {
	_, err := tx.Exec(`
		INSERT INTO usage (name, bytes) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET bytes = usage.bytes + excluded.bytes`, name, bytes)
	return err
}
