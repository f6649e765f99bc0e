package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// dueAtOnce stands in manifests.untagged for those that need not be kept until they are
// old: retention removed the tags by which they, or what they belonged to, were kept.
const dueAtOnce = 0

// candidate is a manifest that no tag names.
type candidate struct {
	id       int64
	digest   digest.Digest
	subject  sql.NullString
	size     int64
	untagged int64
}

// collectManifests removes the manifests of this registry's own repositories that nothing
// needs.
func (c *collector) collectManifests(ctx context.Context) error {
	var last string
	for {
		names, err := scanStrings(c.registry.database.Read(ctx).Query(`
			SELECT name FROM repositories r WHERE upstream IS NULL AND name > $1
			AND EXISTS (SELECT 1 FROM manifests WHERE repository = r.id AND untagged IS NOT NULL)
			ORDER BY name LIMIT $2`, last, collectPage))
		if err != nil {
			return err
		}
		for _, name := range names {
			repository, err := repositoryID(c.registry.database.Read(ctx), name)
			if err == nil {
				err = c.collectManifestsOf(ctx, repository, name)
			}
			if err != nil {
				return err
			}
		}
		if len(names) < collectPage {
			break
		}
		last = names[len(names)-1]
	}
	return c.tellDue(ctx)
}

// collectManifestsOf removes the manifests of one repository, until nothing more follows
// from what was removed.
func (c *collector) collectManifestsOf(ctx context.Context, repository int64, name string) error {
	if c.DryRun {
		return c.tellManifests(ctx, repository, name)
	}
	for {
		removed, err := c.passOver(ctx, repository, name)
		if err != nil {
			return err
		}
		if removed == 0 {
			break
		}
	}
	// What is needed after all is not due the next time that it is not.
	due, err := exists(c.registry.database.Read(ctx).QueryRow(`SELECT 1 FROM manifests WHERE repository = $1 AND untagged = $2`, repository, dueAtOnce))
	if err != nil || !due {
		return err
	}
	return c.registry.database.Write(ctx, func(tx Tx) error {
		_, err := tx.Exec(`UPDATE manifests SET untagged = $1 WHERE repository = $2 AND untagged = $3`, now(), repository, dueAtOnce)
		return err
	})
}

// passOver looks at each candidate of a repository once and returns how many it removed.
// The newest come first: an index is pushed after its entries.
func (c *collector) passOver(ctx context.Context, repository int64, name string) (int64, error) {
	before := c.total.Manifests
	last := int64(1<<63 - 1)
	for {
		page, err := c.candidates(ctx, repository, last)
		if err != nil || len(page) == 0 {
			return c.total.Manifests - before, err
		}
		last = page[len(page)-1].id
		err = inCollectSteps(ctx, c, page, func(tx Tx, s *step, m candidate) error {
			return c.removeManifest(tx, s, repository, name, m)
		})
		if err != nil {
			return 0, err
		}
	}
}

// candidates returns manifests of a repository that have been without a tag, and have not
// been pulled, for long enough.
func (c *collector) candidates(ctx context.Context, repository, last int64) ([]candidate, error) {
	rows, err := c.registry.database.Read(ctx).Query(`
		SELECT id, digest, subject, size, untagged FROM manifests
		WHERE repository = $1 AND untagged IS NOT NULL AND id < $2 AND (untagged = $3 OR untagged <= $4 AND pulled <= $4)
		ORDER BY id DESC LIMIT $5`, repository, last, dueAtOnce, c.oldest(), collectPage)
	return scanAll(rows, err, func(m *candidate) []any { return []any{&m.id, &m.digest, &m.subject, &m.size, &m.untagged} })
}

// oldest is the time since when a manifest must have been without a tag to be a candidate.
func (c *collector) oldest() int64 {
	if c.Untagged == 0 {
		return -1
	}
	return c.before(c.Untagged)
}

// removeManifest removes a candidate that nothing needs.
func (c *collector) removeManifest(tx Tx, s *step, repository int64, name string, m candidate) error {
	var untagged sql.NullInt64
	err := tx.QueryRow(`SELECT untagged FROM manifests WHERE id = $1 AND digest = $2`, m.id, m.digest.String()).Scan(&untagged)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (!untagged.Valid || untagged.Int64 != m.untagged) {
		return nil // it is gone, and its id another's perhaps, or was pushed again
	}
	if err != nil {
		return err
	}
	needed, err := neededBy(tx, repository, m)
	if err != nil || len(needed) > 0 {
		return err
	}
	if m.untagged == dueAtOnce {
		family, err := familyOf(tx, repository, m)
		if err != nil {
			return err
		}
		for _, other := range family {
			if _, err := tx.Exec(`UPDATE manifests SET untagged = $1 WHERE id = $2 AND untagged IS NOT NULL`, dueAtOnce, other); err != nil {
				return err
			}
		}
	}
	if _, err := discardManifest(tx, repository, m.id, true); err != nil {
		return err
	}
	s.Manifests++
	s.gone = append(s.gone, manifestKey{name, m.digest.String()})
	s.lines = append(s.lines, manifestLine(name, m))
	return nil
}

// neededBy returns the manifests of a repository for which one that has no tag is kept:
// indexes that name it, and its subject.
func neededBy(q Querier, repository int64, m candidate) ([]int64, error) {
	return scanIDs(q.Query(`
		SELECT manifest FROM manifest_references WHERE repository = $1 AND digest = $2
		UNION ALL
		SELECT id FROM manifests WHERE repository = $1 AND digest = $3`, repository, m.digest.String(), m.subject.String))
}

// familyOf returns the manifests of a repository that are kept for a manifest: its entries,
// and what refers to it.
func familyOf(q Querier, repository int64, m candidate) ([]int64, error) {
	return scanIDs(q.Query(`
		SELECT c.id FROM manifest_references mr JOIN manifests c ON c.repository = mr.repository AND c.digest = mr.digest
		WHERE mr.manifest = $1
		UNION ALL
		SELECT id FROM manifests WHERE repository = $2 AND subject = $3`, m.id, repository, m.digest.String()))
}

func manifestLine(name string, m candidate) string {
	reason := "nothing needs it since retention removed its tags"
	if m.untagged != dueAtOnce {
		reason = "no tag, index or subject needs it; it was pushed or lost its last tag " + since(m.untagged)
	}
	return fmt.Sprintf("manifest %s@%s: %s", name, m.digest, reason)
}

// tellDue tells of manifests in repositories in which a dry run found no others to go.
func (c *collector) tellDue(ctx context.Context) error {
	for repository := range c.due {
		var name string
		if err := c.registry.database.Read(ctx).QueryRow(`SELECT name FROM repositories WHERE id = $1`, repository).Scan(&name); err != nil {
			return err
		}
		if err := c.tellManifests(ctx, repository, name); err != nil {
			return err
		}
	}
	return nil
}

// tellManifests is what a dry run does: it removes manifests in its mind, until nothing
// more follows from that.
func (c *collector) tellManifests(ctx context.Context, repository int64, name string) error {
	mind, err := c.imagine(ctx, repository)
	if err != nil {
		return err
	}
	delete(c.due, repository)
	for changed := true; changed; {
		changed = false
		for id, m := range mind.candidates {
			if mind.gone[id] {
				continue
			}
			needed, err := neededBy(c.registry.database.Read(ctx), repository, m)
			if err != nil {
				return err
			}
			if !mind.allGone(needed) {
				continue
			}
			if err := c.imagineGone(ctx, repository, mind, m); err != nil {
				return err
			}
			changed = true
			c.total.Manifests++
			c.tell(manifestLine(name, m))
		}
	}
	return nil
}

// imagined is what a dry run has removed in its mind.
type imagined struct {
	candidates map[int64]candidate
	gone       map[int64]bool
}

func (i *imagined) allGone(ids []int64) bool {
	for _, id := range ids {
		if !i.gone[id] {
			return false
		}
	}
	return true
}

// imagine returns the candidates of a repository, those that would lose their tags among
// them.
func (c *collector) imagine(ctx context.Context, repository int64) (*imagined, error) {
	mind := &imagined{candidates: make(map[int64]candidate), gone: make(map[int64]bool)}
	for last := int64(1<<63 - 1); ; {
		page, err := c.candidates(ctx, repository, last)
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			mind.candidates[m.id] = m
			last = m.id
		}
		if len(page) == 0 {
			break
		}
	}
	for id := range c.due[repository] {
		if err := c.imagineDue(ctx, mind, id); err != nil {
			return nil, err
		}
	}
	return mind, nil
}

// imagineDue makes a manifest a candidate that is due.
func (c *collector) imagineDue(ctx context.Context, mind *imagined, id int64) error {
	m := candidate{id: id, untagged: dueAtOnce}
	err := c.registry.database.Read(ctx).QueryRow(`SELECT digest, subject, size FROM manifests WHERE id = $1`, id).Scan(&m.digest, &m.subject, &m.size)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	mind.candidates[id] = m
	return err
}

// imagineGone removes a manifest in mind; what is kept for it is due with it.
func (c *collector) imagineGone(ctx context.Context, repository int64, mind *imagined, m candidate) error {
	mind.gone[m.id] = true
	if m.untagged != dueAtOnce {
		return nil
	}
	family, err := familyOf(c.registry.database.Read(ctx), repository, m)
	if err != nil {
		return err
	}
	for _, other := range family {
		tagged, err := exists(c.registry.database.Read(ctx).QueryRow(`SELECT 1 FROM tags WHERE manifest = $1`, other))
		if err != nil {
			return err
		}
		if !tagged && !mind.gone[other] {
			if err := c.imagineDue(ctx, mind, other); err != nil {
				return err
			}
		}
	}
	return nil
}
