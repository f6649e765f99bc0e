-- +goose Up

-- Where the blob store has the bytes, if it may have them in several places; else ''.
ALTER TABLE blobs ADD COLUMN place TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE blobs DROP COLUMN place;
