package storage

import (
	"bytes"
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
		if err := r.reviveChildren(tx, id, m); err != nil {
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
	var content []byte
	var untagged sql.NullInt64
	err := tx.QueryRow(`SELECT id, media_type, untagged, content FROM manifests WHERE repository = $1 AND digest = $2`, repository, m.Digest.String()).
		Scan(&id, &mediaType, &untagged, &content)
	if err == nil && !bytes.Equal(content, m.Content) {
		// What it had was damaged: the digest is the same.
		_, err = tx.Exec(`UPDATE manifests SET content = $1, size = $2, media_type = $3 WHERE id = $4`, m.Content, len(m.Content), m.MediaType, id)
		mediaType = m.MediaType
	}
	if err == nil {
		if mediaType != m.MediaType {
			return 0, fmt.Errorf("%w: %s is in the repository as %q", ErrManifestInvalid, m.Digest, mediaType)
		}
		if untagged.Valid && untagged.Int64 < now() {
			// It counts as pushed just now, whoever comes to need it.
			_, err = tx.Exec(`UPDATE manifests SET untagged = $1 WHERE id = $2`, now(), id)
		}
		return id, err
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
		INSERT INTO manifests (repository, digest, media_type, size, subject, artifact_type, annotations, created, untagged, content)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id`,
		repository, m.Digest.String(), m.MediaType, len(m.Content), subject, m.ArtifactType, annotations, now(), now(), m.Content).Scan(&id)
	if err != nil {
		return 0, err
	}
	return id, reference(tx, repository, id, m)
}

// Manifest returns a manifest of a repository, of which only Digest, MediaType and
// Content are set, or ErrManifestUnknown or ErrNameUnknown. It counts as pulled.
func (r *Registry) Manifest(ctx context.Context, repository string, ref Reference) (*Manifest, error) {
	key, at := ref.String(), now()
	remember := !r.database.Shared()
	if remember {
		if m, note := r.manifests.get(repository, key, at); m != nil {
			if note {
				r.pulls.noteManifest(repository, m.Digest, at)
			}
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
	if computed := m.Digest.Algorithm().FromBytes(m.Content); computed != m.Digest {
		return nil, fmt.Errorf("manifest %s of repository %q is damaged: its bytes have digest %s", m.Digest, repository, computed)
	}
	r.pulls.noteManifest(repository, m.Digest, at)
	if remember {
		r.manifests.put(repository, key, m, epoch, at)
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
		manifest, err := manifestID(tx, id, d)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: %s is not in repository %q", ErrManifestUnknown, d, repository)
		}
		if err != nil {
			return err
		}
		forgotten, err = discardManifest(tx, id, manifest, false)
		return err
	})
	if err == nil {
		r.manifests.forget(repository, append(forgotten, d.String())...)
	}
	return err
}

func manifestID(q Querier, repository int64, d digest.Digest) (id int64, err error) {
	err = q.QueryRow(`SELECT id FROM manifests WHERE repository = $1 AND digest = $2`, repository, d.String()).Scan(&id)
	return id, err
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
		takeTime(tx)
		forgotten, err = r.discardAll(tx, id)
		return err
	})
	if err == nil {
		r.manifests.forget(repository, forgotten...)
	}
	return err
}
