-- +goose Up

-- Whoever signed in, as their identity provider knows them.
CREATE TABLE people (
	id            INTEGER PRIMARY KEY,
	issuer        TEXT NOT NULL,
	subject       TEXT NOT NULL,
	client_id     TEXT NOT NULL,
	version       TEXT NOT NULL,   -- of the configuration by which name and groups were read
	name          TEXT NOT NULL,
	groups        TEXT NOT NULL,   -- JSON array
	refresh_token BYTEA,           -- encrypted
	refreshed     BIGINT NOT NULL, -- seconds since 1970
	asked         BIGINT NOT NULL,
	UNIQUE (issuer, subject)
);
CREATE INDEX people_asked ON people (version, client_id, asked) WHERE refresh_token IS NOT NULL;

CREATE TABLE api_keys (
	id        TEXT PRIMARY KEY,
	hash      BYTEA NOT NULL UNIQUE, -- SHA-256 of the key, which is kept nowhere
	label     TEXT NOT NULL,
	person    BIGINT REFERENCES people (id), -- the owner; NULL: owner and groups stand here
	owner     TEXT NOT NULL,
	groups    TEXT NOT NULL,   -- JSON array
	scopes    TEXT NOT NULL,   -- JSON array
	job       TEXT NOT NULL,   -- the workload identity that made it, or ''
	version   TEXT NOT NULL,   -- of that workload identity's configuration, or ''
	created   BIGINT NOT NULL,
	expires   BIGINT NOT NULL, -- 0: never
	used      BIGINT NOT NULL, -- when last; 0: never
	revoked   BIGINT NOT NULL, -- 0: never
	lifetime  BIGINT NOT NULL, -- in seconds, that a rotated one gets again
	successor TEXT NOT NULL    -- id of the key it was rotated to, which may be gone, or ''
);
CREATE INDEX api_keys_person ON api_keys (person, created) WHERE person IS NOT NULL;
CREATE INDEX api_keys_expires ON api_keys (expires) WHERE expires > 0;
CREATE INDEX api_keys_revoked ON api_keys (revoked) WHERE revoked > 0;

-- Browsers that are signed in, as a person or with an API key.
CREATE TABLE sessions (
	hash     BYTEA PRIMARY KEY, -- SHA-256 of what the cookie has
	person   BIGINT REFERENCES people (id),
	api_key  TEXT REFERENCES api_keys (id) ON DELETE CASCADE,
	created  BIGINT NOT NULL,
	expires  BIGINT NOT NULL,
	id_token BYTEA -- encrypted
);
CREATE INDEX sessions_person ON sessions (person, expires) WHERE person IS NOT NULL;
CREATE INDEX sessions_api_key ON sessions (api_key) WHERE api_key IS NOT NULL;
CREATE INDEX sessions_expires ON sessions (expires);

-- What tokens are signed with.
CREATE TABLE signing_keys (
	id      TEXT PRIMARY KEY,
	created BIGINT NOT NULL,
	sealed  BYTEA NOT NULL -- encrypted
);

-- +goose Down
DROP TABLE signing_keys;
DROP TABLE sessions;
DROP TABLE api_keys;
DROP TABLE people;
