-- +goose Up

-- Since when no manifest of the repository names the blob; NULL: one does.
ALTER TABLE repository_blobs ADD COLUMN unreferenced BIGINT;
UPDATE repository_blobs SET unreferenced = created WHERE NOT EXISTS (
	SELECT 1 FROM blobs b JOIN manifest_references mr ON mr.digest = b.digest
	WHERE b.id = repository_blobs.blob AND mr.repository = repository_blobs.repository);
CREATE INDEX repository_blobs_unreferenced ON repository_blobs (unreferenced, repository, blob) WHERE unreferenced IS NOT NULL;

-- When the bytes were found to be others than the digest says; NULL: never.
ALTER TABLE blobs ADD COLUMN damaged BIGINT;
CREATE INDEX blobs_damaged ON blobs (damaged) WHERE damaged IS NOT NULL;

-- 1 if only copies of upstreams' repositories hold the blob, which may be evicted then; else NULL.
ALTER TABLE blobs ADD COLUMN evictable BIGINT;
UPDATE blobs SET evictable = 1
	WHERE EXISTS (SELECT 1 FROM repository_blobs WHERE blob = blobs.id)
	AND NOT EXISTS (
		SELECT 1 FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository
		WHERE rb.blob = blobs.id AND r.upstream IS NULL);
DROP INDEX blobs_pulled;
CREATE INDEX blobs_evictable ON blobs (pulled, id) WHERE evictable IS NOT NULL;

-- Since when no tag names the manifest; NULL: one does.
ALTER TABLE manifests ADD COLUMN untagged BIGINT;
UPDATE manifests SET untagged = created WHERE NOT EXISTS (SELECT 1 FROM tags WHERE manifest = manifests.id);
CREATE INDEX manifests_untagged ON manifests (repository, untagged, id) WHERE untagged IS NOT NULL;

-- When a client last pulled the manifest; 0: never.
ALTER TABLE manifests ADD COLUMN pulled BIGINT NOT NULL DEFAULT 0;

CREATE INDEX uploads_repository ON uploads (repository);

-- What tags named before they were moved or deleted.
CREATE TABLE tag_history (
	id         INTEGER PRIMARY KEY,
	repository BIGINT NOT NULL REFERENCES repositories (id),
	name       TEXT NOT NULL,
	digest     TEXT NOT NULL,
	since      BIGINT NOT NULL, -- the tag named the manifest from then
	until      BIGINT NOT NULL  -- to then
);
CREATE INDEX tag_history_tag ON tag_history (repository, name, until);
CREATE INDEX tag_history_digest ON tag_history (repository, digest);

-- Manifests that were deleted, until nobody can want them back any more.
CREATE TABLE deleted_manifests (
	repository BIGINT NOT NULL REFERENCES repositories (id),
	digest     TEXT NOT NULL,
	media_type TEXT NOT NULL,
	subject    TEXT,
	content    BYTEA NOT NULL,
	deleted    BIGINT NOT NULL,
	collected  BIGINT NOT NULL, -- 1: as garbage, 0: since somebody said so
	PRIMARY KEY (repository, digest)
);
CREATE INDEX deleted_manifests_deleted ON deleted_manifests (deleted);
CREATE INDEX deleted_manifests_subject ON deleted_manifests (repository, subject) WHERE subject IS NOT NULL;

-- Blobs that were deleted from a repository, likewise.
CREATE TABLE deleted_blobs (
	repository BIGINT NOT NULL REFERENCES repositories (id),
	blob       BIGINT NOT NULL REFERENCES blobs (id),
	deleted    BIGINT NOT NULL,
	PRIMARY KEY (repository, blob)
);
CREATE INDEX deleted_blobs_blob ON deleted_blobs (blob);
CREATE INDEX deleted_blobs_deleted ON deleted_blobs (deleted);

-- How many bytes the blobs of some repositories have, each counted once: of those of an
-- upstream or this registry's own ("namespace …"), of those under a quota ("quota …"),
-- and of those that only copies hold ("copies").
CREATE TABLE usage (
	name  TEXT PRIMARY KEY,
	bytes BIGINT NOT NULL
);
INSERT INTO usage (name, bytes)
	SELECT 'namespace ' || held.namespace, sum(held.size) FROM (
		SELECT DISTINCT coalesce(r.upstream, 'private') AS namespace, b.id, b.size
		FROM repository_blobs rb JOIN repositories r ON r.id = rb.repository JOIN blobs b ON b.id = rb.blob) held
	GROUP BY held.namespace;
INSERT INTO usage (name, bytes)
	SELECT 'copies', coalesce(sum(size), 0) FROM blobs WHERE evictable IS NOT NULL;

-- When work that is done now and then was last done, and what came of it.
CREATE TABLE runs (
	name   TEXT PRIMARY KEY,
	ended  BIGINT NOT NULL,
	result TEXT NOT NULL -- JSON
);

-- +goose Down
DROP TABLE runs;
DROP TABLE usage;
DROP TABLE deleted_blobs;
DROP TABLE deleted_manifests;
DROP TABLE tag_history;
DROP INDEX uploads_repository;
ALTER TABLE manifests DROP COLUMN pulled;
DROP INDEX manifests_untagged;
ALTER TABLE manifests DROP COLUMN untagged;
CREATE INDEX blobs_pulled ON blobs (pulled);
DROP INDEX blobs_evictable;
ALTER TABLE blobs DROP COLUMN evictable;
DROP INDEX blobs_damaged;
ALTER TABLE blobs DROP COLUMN damaged;
DROP INDEX repository_blobs_unreferenced;
ALTER TABLE repository_blobs DROP COLUMN unreferenced;
