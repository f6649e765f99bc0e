-- +goose Up

-- Counts how often it was recorded where an upload stands, so that of two processes that
-- go on with one only one does.
ALTER TABLE uploads ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE uploads DROP COLUMN revision;
