package storage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/opencontainers/go-digest"
)

// Retention is a rule about the tags of some repositories: those that it does not keep
// go, and the manifests that they named with them, unless something else needs those.
type Retention struct {
	// Name is what the rule is called where it is told why a tag goes.
	Name  string
	Match func(repository string) bool
	// KeepTags reports whether a tag is kept for its name. nil: none is.
	KeepTags func(tag string) bool
	// KeepLast is how many tags are kept that were pushed last.
	KeepLast int
	// KeepPulledWithin keeps tags that were pushed, or whose manifest was pulled, at most so
	// long ago. 0: none is.
	KeepPulledWithin time.Duration
}

// referrerTag matches the tags by which clients attach signatures and the like to a
// manifest without its subject field (cosign's, and distribution-spec, "Referrers Tag
// Schema"): algorithm, digest and what it is.
var referrerTag = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64}|[0-9a-f]{128})(?:\.[a-z]+)?$`)

// subjectOfTag returns the manifest that a tag attaches something to.
func subjectOfTag(tag string) (digest.Digest, bool) {
	match := referrerTag.FindStringSubmatch(tag)
	if match == nil {
		return "", false
	}
	d, err := ParseDigest(match[1] + ":" + match[2])
	return d, err == nil
}

// candidateTag is a tag that may go.
type candidateTag struct {
	name     string
	digest   digest.Digest
	manifest int64
	updated  int64
	pulled   int64
}

// collectTags removes the tags that no rule of retention keeps.
func (c *collector) collectTags(ctx context.Context) error {
	if len(c.Retention) == 0 {
		return nil
	}
	var last string
	for {
		names, err := scanStrings(c.registry.database.Read(ctx).Query(`
			SELECT name FROM repositories WHERE upstream IS NULL AND name > $1 ORDER BY name LIMIT $2`, last, collectPage))
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			for i := range c.Retention {
				if rule := &c.Retention[i]; rule.Match(name) {
					if err := c.retain(ctx, name, rule); err != nil {
						return err
					}
					break
				}
			}
		}
		last = names[len(names)-1]
	}
}

// retain removes the tags of a repository that a rule does not keep, and then those that
// attach something to a manifest that is gone by then.
func (c *collector) retain(ctx context.Context, name string, rule *Retention) error {
	repository, err := repositoryID(c.registry.database.Read(ctx), name)
	if err != nil {
		return err
	}
	newest, err := c.newestTags(ctx, repository, rule.KeepLast)
	if err != nil {
		return err
	}
	keptSince := c.before(rule.KeepPulledWithin)
	err = c.removeTags(ctx, repository, name, "retention "+rule.Name, func(t *candidateTag) (bool, error) {
		_, attached := subjectOfTag(t.name)
		kept := attached || newest[t.name] || rule.KeepTags != nil && rule.KeepTags(t.name) ||
			rule.KeepPulledWithin > 0 && max(t.updated, t.pulled) >= keptSince
		return !kept, nil
	})
	if err != nil {
		return err
	}
	if !c.DryRun {
		if err := c.collectManifestsOf(ctx, repository, name); err != nil {
			return err
		}
	}
	return c.removeTags(ctx, repository, name, "what it is attached to is gone", func(t *candidateTag) (bool, error) {
		subject, attached := subjectOfTag(t.name)
		if !attached || t.updated > c.before(c.Delay) {
			return false, nil // it may have come before its subject
		}
		present, err := holdsManifest(c.registry.database.Read(ctx), repository, subject)
		return err == nil && !present, err
	})
}

// newestTags returns the n tags of a repository that were pushed last.
func (c *collector) newestTags(ctx context.Context, repository int64, n int) (map[string]bool, error) {
	newest := make(map[string]bool)
	if n == 0 {
		return newest, nil
	}
	rows, err := c.registry.database.Read(ctx).Query(`SELECT name FROM tags WHERE repository = $1 ORDER BY updated DESC, name DESC`, repository)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for len(newest) < n && rows.Next() {
		var tag string
		if err := rows.Scan(&tag); err != nil {
			return nil, err
		}
		if _, attached := subjectOfTag(tag); !attached {
			newest[tag] = true
		}
	}
	return newest, rows.Err()
}

// removeTags removes those tags of a repository for which goes says so.
func (c *collector) removeTags(ctx context.Context, repository int64, name, reason string, goes func(*candidateTag) (bool, error)) error {
	var last string
	for {
		page, err := c.readTags(ctx, repository, last)
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1].name
		var going []candidateTag
		for i := range page {
			remove, err := goes(&page[i])
			if err != nil {
				return err
			}
			if remove {
				going = append(going, page[i])
			}
		}
		if c.DryRun {
			if err := c.tellTags(ctx, repository, name, reason, going); err != nil {
				return err
			}
			continue
		}
		err = inCollectSteps(ctx, c, going, func(tx Tx, s *step, t candidateTag) error {
			return removeTag(tx, s, repository, name, reason, t)
		})
		if err != nil {
			return err
		}
	}
}

func (c *collector) readTags(ctx context.Context, repository int64, last string) ([]candidateTag, error) {
	rows, err := c.registry.database.Read(ctx).Query(`
		SELECT t.name, m.digest, m.id, t.updated, m.pulled FROM tags t JOIN manifests m ON m.id = t.manifest
		WHERE t.repository = $1 AND t.name > $2 ORDER BY t.name LIMIT $3`, repository, last, collectPage)
	return scanAll(rows, err, func(t *candidateTag) []any { return []any{&t.name, &t.digest, &t.manifest, &t.updated, &t.pulled} })
}

// removeTag removes a tag unless it was pushed again meanwhile. If that leaves its
// manifest without tags, it is due.
func removeTag(tx Tx, s *step, repository int64, name, reason string, t candidateTag) error {
	var manifest, updated int64
	err := tx.QueryRow(`SELECT manifest, updated FROM tags WHERE repository = $1 AND name = $2`, repository, t.name).Scan(&manifest, &updated)
	if errors.Is(err, sql.ErrNoRows) || err == nil && (manifest != t.manifest || updated != t.updated) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := deleteTag(tx, repository, t.name); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE manifests SET untagged = $1 WHERE id = $2 AND untagged IS NOT NULL`, dueAtOnce, manifest); err != nil {
		return err
	}
	s.Tags++
	s.gone = append(s.gone, manifestKey{name, t.name})
	s.lines = append(s.lines, tagLine(name, reason, t))
	return nil
}

func tagLine(name, reason string, t candidateTag) string {
	return fmt.Sprintf("tag %s:%s of %s, pushed %s: %s", name, t.name, t.digest, since(t.updated), reason)
}

// tellTags is what a dry run does with tags that would go.
func (c *collector) tellTags(ctx context.Context, repository int64, name, reason string, going []candidateTag) error {
	for _, t := range going {
		c.total.Tags++
		c.tell(tagLine(name, reason, t))
		var others int64
		err := c.registry.database.Read(ctx).QueryRow(`SELECT count(*) FROM tags WHERE manifest = $1 AND name <> $2`, t.manifest, t.name).Scan(&others)
		if err != nil {
			return err
		}
		if others == 0 {
			if c.due[repository] == nil {
				c.due[repository] = make(map[int64]bool)
			}
			c.due[repository][t.manifest] = true
		}
	}
	return nil
}
