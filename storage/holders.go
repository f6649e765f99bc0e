package storage

import (
	"database/sql"
	"errors"
	"iter"

	"github.com/opencontainers/go-digest"
)

const (
	// firstHolders is how many repositories are read at first: one of them is often enough.
	firstHolders = 10
	// holdersPage is how many are read then, at a time.
	holdersPage = 500
)

// holder is a repository that holds a blob.
type holder struct {
	repository int64
	name       string
	upstream   string // whose copy it is; empty: this registry's own
}

// eachHolder yields the repositories that hold a blob, some of which are read at a time: all
// images may share one.
func eachHolder(q Querier, blob int64) iter.Seq2[holder, error] {
	return func(yield func(holder, error) bool) {
		for last, n := int64(0), firstHolders; ; n = holdersPage {
			rows, err := q.Query(`
				SELECT r.id, r.name, coalesce(r.upstream, '') FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
				WHERE rb.blob = $1 AND rb.repository > $2 ORDER BY rb.repository LIMIT $3`, blob, last, n)
			page, err := scanAll(rows, err, func(h *holder) []any { return []any{&h.repository, &h.name, &h.upstream} })
			if err != nil {
				yield(holder{}, err)
				return
			}
			for _, h := range page {
				if !yield(h, nil) {
					return
				}
			}
			if len(page) < n {
				return
			}
			last = page[len(page)-1].repository
		}
	}
}

// findHolder returns a blob that is not damaged, and one of the repositories that hold it
// which accept accepts. If there is none, found is false.
func findHolder(q Querier, d digest.Digest, accept func(holder) bool) (blob int64, _ holder, found bool, err error) {
	err = q.QueryRow(`SELECT id FROM blobs WHERE digest = $1 AND damaged IS NULL`, d.String()).Scan(&blob)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, holder{}, false, nil
	}
	if err != nil {
		return 0, holder{}, false, err
	}
	for h, err := range eachHolder(q, blob) {
		if err != nil || accept(h) {
			return blob, h, err == nil, err
		}
	}
	return 0, holder{}, false, nil
}
