package storage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Sparse tells which content a manifest may name without the repository having it.
type Sparse string

const (
	SparseIndex Sparse = "index" // an index may name absent manifests, an image must be whole
	SparseOn    Sparse = "on"    // both may name what is absent
	SparseOff   Sparse = "off"   // neither may
)

// Put says how a manifest is to be put.
type Put struct {
	// Tags are made, or moved, to name the manifest: all of them or none.
	Tags []string
	// Check decides whether a tag may be made (exists is false) or moved from another
	// digest (exists is true), while no one else can do either; its error is
	// PutManifest's. It is not asked about a tag that names the manifest already, may be
	// asked twice about another, and must not use the registry. nil: all may.
	Check func(tag string, exists bool) error
	// Sparse is SparseIndex if empty.
	Sparse Sparse
}

// TagChange is what a push did to a tag that did not name the manifest before.
type TagChange struct {
	Tag      string
	Previous digest.Digest // that it named; empty: there was no such tag
}

// PutManifest makes m part of a repository and its tags name it, in one step that is
// durable when it returns no error, and returns the tags that were made or moved. What m
// must name and the repository lacks is ErrManifestBlobUnknown.
func (r *Registry) PutManifest(ctx context.Context, repository string, m *Manifest, put Put) ([]TagChange, error) {
	var changes []TagChange
	err := r.database.Write(ctx, func(tx Tx) error {
		changes = nil
		id, err := ensureRepository(tx, repository, "")
		if err != nil {
			return err
		}
		if err := checkPresent(tx, id, m, put.Sparse); err != nil {
			return err
		}
		manifest, err := insertManifest(tx, id, m)
		if err != nil {
			return err
		}
		for _, tag := range put.Tags {
			change, err := putTag(tx, id, tag, manifest, put.Check)
			if err != nil {
				return err
			}
			if change != nil {
				changes = append(changes, *change)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.manifests.forget(repository, append(slices.Clone(put.Tags), m.Digest.String())...)
	return changes, nil
}

// checkPresent reports with ErrManifestBlobUnknown all that m must name and the
// repository lacks.
func checkPresent(tx Tx, repository int64, m *Manifest, sparse Sparse) error {
	if sparse == SparseOn {
		return nil
	}
	var missing []string
	for _, d := range m.Required {
		held, err := holdsBlob(tx, repository, d)
		if err != nil {
			return err
		}
		if !held {
			missing = append(missing, d.String())
		}
	}
	if sparse == SparseOff {
		for _, d := range m.Children {
			// Build caches put layers into an index, so a blob will do.
			held, err := holdsManifest(tx, repository, d)
			if err == nil && !held {
				held, err = holdsBlob(tx, repository, d)
			}
			if err != nil {
				return err
			}
			if !held {
				missing = append(missing, d.String())
			}
		}
	}
	if missing != nil {
		return fmt.Errorf("%w: push %s first", ErrManifestBlobUnknown, strings.Join(missing, ", "))
	}
	return nil
}

func holdsManifest(q Querier, repository int64, d digest.Digest) (bool, error) {
	return exists(q.QueryRow(`SELECT 1 FROM manifests WHERE repository = $1 AND digest = $2`, repository, d.String()))
}

// exists reports whether a query found a row.
func exists(row Row) (bool, error) {
	var one int
	err := row.Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// insertManifest returns the key of m in the repository, which it makes if need be.
func insertManifest(tx Tx, repository int64, m *Manifest) (int64, error) {
	var id int64
	var mediaType string
	err := tx.QueryRow(`SELECT id, media_type FROM manifests WHERE repository = $1 AND digest = $2`, repository, m.Digest.String()).Scan(&id, &mediaType)
	if err == nil {
		if mediaType != m.MediaType {
			return 0, fmt.Errorf("%w: %s is in the repository as %q", ErrManifestInvalid, m.Digest, mediaType)
		}
		return id, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	var annotations string
	if len(m.Annotations) > 0 {
		encoded, err := json.Marshal(m.Annotations)
		if err != nil {
			return 0, err
		}
		annotations = string(encoded)
	}
	subject := sql.NullString{String: m.Subject.String(), Valid: m.Subject != ""}
	err = tx.QueryRow(`
		INSERT INTO manifests (repository, digest, media_type, size, subject, artifact_type, annotations, created, content)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id`,
		repository, m.Digest.String(), m.MediaType, len(m.Content), subject, m.ArtifactType, annotations, now(), m.Content).Scan(&id)
	if err != nil {
		return 0, err
	}
	for _, ref := range m.references() {
		if _, err := tx.Exec(`INSERT INTO manifest_references (repository, digest, manifest, size) VALUES ($1, $2, $3, $4)`, repository, ref.Digest.String(), id, ref.Size); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// putTag makes a tag name a manifest, if check, unless that is nil, lets it. It returns
// nil if the tag does already.
func putTag(tx Tx, repository int64, tag string, manifest int64, check func(tag string, exists bool) error) (*TagChange, error) {
	change := &TagChange{Tag: tag}
	var current int64
	err := tx.QueryRow(`
		SELECT m.id, m.digest FROM tags t JOIN manifests m ON m.id = t.manifest
		WHERE t.repository = $1 AND t.name = $2`, repository, tag).Scan(&current, &change.Previous)
	found := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if found && current == manifest {
		return nil, nil
	}
	if check != nil {
		if err := check(tag, found); err != nil {
			return nil, err
		}
	}
	if found {
		_, err = tx.Exec(`UPDATE tags SET manifest = $1, updated = $2 WHERE repository = $3 AND name = $4`, manifest, now(), repository, tag)
	} else {
		_, err = tx.Exec(`INSERT INTO tags (repository, name, manifest, updated) VALUES ($1, $2, $3, $4)`, repository, tag, manifest, now())
	}
	return change, err
}

// Manifest returns a manifest of a repository, of which only Digest, MediaType and
// Content are set, or ErrManifestUnknown or ErrNameUnknown.
func (r *Registry) Manifest(ctx context.Context, repository string, ref Reference) (*Manifest, error) {
	key := ref.String()
	remember := ref.Digest != "" || !r.database.Shared()
	if remember {
		if m := r.manifests.get(repository, key); m != nil {
			return m, nil
		}
	}
	epoch := r.manifests.epochNow()
	query := `
		SELECT m.digest, m.media_type, m.content FROM repositories r
		JOIN tags t ON t.repository = r.id AND t.name = $1
		JOIN manifests m ON m.id = t.manifest
		WHERE r.name = $2`
	if ref.Digest != "" {
		query = `
			SELECT m.digest, m.media_type, m.content FROM repositories r
			JOIN manifests m ON m.repository = r.id AND m.digest = $1
			WHERE r.name = $2`
	}
	read := r.database.Read(ctx)
	m := new(Manifest)
	err := read.QueryRow(query, key, repository).Scan(&m.Digest, &m.MediaType, &m.Content)
	if errors.Is(err, sql.ErrNoRows) {
		if _, err := repositoryID(read, repository); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s is not in repository %q", ErrManifestUnknown, key, repository)
	}
	if err != nil {
		return nil, err
	}
	if remember {
		r.manifests.put(repository, key, m, epoch)
	}
	return m, nil
}

// DeleteManifest removes a manifest from a repository, with all tags that name it.
func (r *Registry) DeleteManifest(ctx context.Context, repository string, d digest.Digest) error {
	var forgotten []string
	err := r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		var manifest int64
		err = tx.QueryRow(`SELECT id FROM manifests WHERE repository = $1 AND digest = $2`, id, d.String()).Scan(&manifest)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: %s is not in repository %q", ErrManifestUnknown, d, repository)
		}
		if err != nil {
			return err
		}
		if forgotten, err = scanStrings(tx.Query(`DELETE FROM tags WHERE manifest = $1 RETURNING name`, manifest)); err != nil {
			return err
		}
		_, err = tx.Exec(`DELETE FROM manifests WHERE id = $1`, manifest)
		return err
	})
	if err == nil {
		r.manifests.forget(repository, append(forgotten, d.String())...)
	}
	return err
}

// DeleteTag removes a tag; the manifest that it named stays.
func (r *Registry) DeleteTag(ctx context.Context, repository, tag string) error {
	err := r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		result, err := tx.Exec(`DELETE FROM tags WHERE repository = $1 AND name = $2`, id, tag)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("%w: tag %q is not in repository %q", ErrManifestUnknown, tag, repository))
		}
		return nil
	})
	if err == nil {
		r.manifests.forget(repository, tag)
	}
	return err
}

// DeleteRepository removes all tags, manifests and blobs from a repository. Its name
// stays known as this registry's own.
func (r *Registry) DeleteRepository(ctx context.Context, repository string) error {
	var forgotten []string
	err := r.database.Write(ctx, func(tx Tx) error {
		id, err := repositoryID(tx, repository)
		if err != nil {
			return err
		}
		tags, err := scanStrings(tx.Query(`DELETE FROM tags WHERE repository = $1 RETURNING name`, id))
		if err != nil {
			return err
		}
		manifests, err := scanStrings(tx.Query(`DELETE FROM manifests WHERE repository = $1 RETURNING digest`, id))
		if err != nil {
			return err
		}
		forgotten = append(tags, manifests...)
		_, err = tx.Exec(`DELETE FROM repository_blobs WHERE repository = $1`, id)
		return err
	})
	if err == nil {
		r.manifests.forget(repository, forgotten...)
	}
	return err
}
