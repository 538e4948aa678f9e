-- Tokens have names, may be limited to rings and may end; their secrets are rows of their own, since for the overlap
-- of a rotation a token has two.

CREATE TABLE token_secrets (
    hash       BYTEA PRIMARY KEY CHECK (length(hash) = 32),
    token_id   TEXT COLLATE "C" NOT NULL REFERENCES tokens (id),
    expires_at BIGINT -- the end of its overlap, once a rotation replaced it
);

INSERT INTO token_secrets (hash, token_id) SELECT hash, id FROM tokens;

ALTER TABLE tokens
    DROP COLUMN hash,
    DROP CONSTRAINT tokens_role_check,
    ADD CONSTRAINT tokens_role_check CHECK (role IN ('admin', 'operator', 'auditor', 'proxy')),
    ADD COLUMN name         TEXT NOT NULL DEFAULT '',
    ADD COLUMN rings        TEXT, -- a JSON array; NULL: all of them
    ADD COLUMN expires_at   BIGINT,
    ADD COLUMN revoked_at   BIGINT,
    ADD COLUMN last_used_at BIGINT;

ALTER TABLE tokens ALTER COLUMN name DROP DEFAULT;

CREATE INDEX token_secrets_by_token ON token_secrets (token_id);
