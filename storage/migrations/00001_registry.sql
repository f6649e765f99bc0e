-- +goose Up

-- Repositories stay when they are emptied: a name that was ever pushed to is this
-- registry's own.
CREATE TABLE repositories (
	id      INTEGER PRIMARY KEY,
	name    TEXT NOT NULL UNIQUE,
	created BIGINT NOT NULL -- seconds since 1970
);

-- What the blob store holds, shared by all repositories.
CREATE TABLE blobs (
	id      INTEGER PRIMARY KEY,
	digest  TEXT NOT NULL UNIQUE,
	size    BIGINT NOT NULL,
	created BIGINT NOT NULL
);

-- A repository holds a blob only if a row here says so.
CREATE TABLE repository_blobs (
	repository BIGINT NOT NULL REFERENCES repositories (id),
	blob       BIGINT NOT NULL REFERENCES blobs (id),
	created    BIGINT NOT NULL,
	PRIMARY KEY (repository, blob)
);
CREATE INDEX repository_blobs_blob ON repository_blobs (blob, repository);

CREATE TABLE manifests (
	id            INTEGER PRIMARY KEY,
	repository    BIGINT NOT NULL REFERENCES repositories (id),
	digest        TEXT NOT NULL,
	media_type    TEXT NOT NULL,
	size          BIGINT NOT NULL,
	subject       TEXT,          -- digest of the manifest that this one refers to
	artifact_type TEXT NOT NULL, -- as a referrers list tells it, or ''
	annotations   TEXT NOT NULL, -- JSON object, or ''
	created       BIGINT NOT NULL,
	content       BYTEA NOT NULL,
	UNIQUE (repository, digest)
);
CREATE INDEX manifests_subject ON manifests (repository, subject, digest) WHERE subject IS NOT NULL;

-- The blobs and manifests that a manifest names, present or not.
CREATE TABLE manifest_references (
	repository BIGINT NOT NULL REFERENCES repositories (id),
	digest     TEXT NOT NULL,
	manifest   BIGINT NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
	PRIMARY KEY (repository, digest, manifest)
);
CREATE INDEX manifest_references_manifest ON manifest_references (manifest);

CREATE TABLE tags (
	repository BIGINT NOT NULL REFERENCES repositories (id),
	name       TEXT NOT NULL,
	manifest   BIGINT NOT NULL REFERENCES manifests (id),
	updated    BIGINT NOT NULL,
	PRIMARY KEY (repository, name)
);
CREATE INDEX tags_manifest ON tags (manifest);

CREATE TABLE uploads (
	id          TEXT PRIMARY KEY,
	repository  TEXT NOT NULL, -- by name: an upload alone makes no repository
	algorithm   TEXT NOT NULL,
	size        BIGINT NOT NULL,
	hash        BYTEA,
	store_state BYTEA,
	created     BIGINT NOT NULL,
	updated     BIGINT NOT NULL
);
CREATE INDEX uploads_updated ON uploads (updated);

-- +goose Down
DROP TABLE uploads;
DROP TABLE tags;
DROP TABLE manifest_references;
DROP TABLE manifests;
DROP TABLE repository_blobs;
DROP TABLE blobs;
DROP TABLE repositories;
