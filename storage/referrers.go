package storage

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Referrers returns up to n descriptors of the manifests of a repository whose subject
// is the given digest, ordered by digest after last, and of the given artifact type
// unless that is empty. That there are none, nor the subject, nor the repository, is no
// error (distribution-spec, "Listing Referrers").
//
// Manifests that clients also list under the subject's fallback tag are among them,
// since it is their own subject field that counts.
func (r *Registry) Referrers(ctx context.Context, repository string, subject digest.Digest, artifactType string, last digest.Digest, n int) ([]imagespec.Descriptor, error) {
	rows, err := r.database.Read(ctx).Query(`
		SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations
		FROM repositories r JOIN manifests m ON m.repository = r.id
		WHERE r.name = $1 AND m.subject = $2 AND m.digest > $3 AND ($4 = '' OR m.artifact_type = $4)
		ORDER BY m.digest LIMIT $5`,
		repository, subject.String(), last.String(), artifactType, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []imagespec.Descriptor
	for rows.Next() {
		var desc imagespec.Descriptor
		var annotations string
		if err := rows.Scan(&desc.Digest, &desc.MediaType, &desc.Size, &desc.ArtifactType, &annotations); err != nil {
			return nil, err
		}
		if annotations != "" {
			if err := json.Unmarshal([]byte(annotations), &desc.Annotations); err != nil {
				return nil, fmt.Errorf("annotations of %s: %w", desc.Digest, err)
			}
		}
		all = append(all, desc)
	}
	return all, rows.Err()
}
