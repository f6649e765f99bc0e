-- +goose Up

-- Bytes of blobs that were brought here from another registry, until its facts come, all in
-- one step.
CREATE TABLE brought (
	digest TEXT PRIMARY KEY,
	place  TEXT NOT NULL
);

-- +goose Down
DROP TABLE brought;
