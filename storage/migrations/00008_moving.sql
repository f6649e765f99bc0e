-- +goose Up

-- One row if the registry is being moved elsewhere, or was: nothing else is written then.
CREATE TABLE moving (
	id    BIGINT PRIMARY KEY CHECK (id = 1),
	since BIGINT NOT NULL
);

-- When bytes were brought: what a registry that never came left behind is garbage some day.
ALTER TABLE brought ADD COLUMN at BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE brought DROP COLUMN at;
DROP TABLE moving;
