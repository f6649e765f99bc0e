-- +goose Up

-- The registry whose repository this one is a copy of; NULL: it is this registry's own.
ALTER TABLE repositories ADD COLUMN upstream TEXT;

-- When the upstream last said that the tag names this manifest.
ALTER TABLE tags ADD COLUMN confirmed BIGINT;

-- How many bytes the descriptor says that the content has; -1: it is not known.
ALTER TABLE manifest_references ADD COLUMN size BIGINT NOT NULL DEFAULT -1;

-- Of an upload that is a blob's way from an upstream to here: both their names.
ALTER TABLE uploads ADD COLUMN "fetch" TEXT;
CREATE UNIQUE INDEX uploads_fetch ON uploads ("fetch") WHERE "fetch" IS NOT NULL;

-- When a client last pulled the blob, if it is of a repository that is a copy.
ALTER TABLE blobs ADD COLUMN pulled BIGINT NOT NULL DEFAULT 0;
CREATE INDEX blobs_pulled ON blobs (pulled);

-- +goose Down
DROP INDEX blobs_pulled;
ALTER TABLE blobs DROP COLUMN pulled;
DROP INDEX uploads_fetch;
ALTER TABLE uploads DROP COLUMN "fetch";
ALTER TABLE manifest_references DROP COLUMN size;
ALTER TABLE tags DROP COLUMN confirmed;
ALTER TABLE repositories DROP COLUMN upstream;
