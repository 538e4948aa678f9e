-- Tokens have names, may be limited to rings and may end; their secrets are rows of their own, since for the overlap
-- of a rotation a token has two.

CREATE TABLE tokens_new (
    id           TEXT    PRIMARY KEY,
    name         TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('admin', 'operator', 'auditor', 'proxy')),
    rings        TEXT,    -- a JSON array; NULL: all of them
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;

INSERT INTO tokens_new (id, name, role, created_at) SELECT id, '', role, created_at FROM tokens;

CREATE TABLE token_secrets (
    hash       BLOB    PRIMARY KEY CHECK (length(hash) = 32),
    token_id   TEXT    NOT NULL REFERENCES tokens_new (id),
    expires_at INTEGER -- the end of its overlap, once a rotation replaced it
) STRICT, WITHOUT ROWID;

INSERT INTO token_secrets (hash, token_id) SELECT hash, id FROM tokens;

DROP TABLE tokens;
ALTER TABLE tokens_new RENAME TO tokens;

CREATE INDEX token_secrets_by_token ON token_secrets (token_id);
