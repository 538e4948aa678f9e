-- Times are milliseconds since the Unix epoch. No column holds a key or a token in plain text.

CREATE TABLE rings (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    epoch      TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    key_prefix TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE clients (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    owner      TEXT,
    contact    TEXT,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    id         TEXT    PRIMARY KEY,
    ring_id    INTEGER NOT NULL REFERENCES rings (id),
    client_id  INTEGER NOT NULL REFERENCES clients (id),
    scopes     TEXT    NOT NULL, -- a JSON array
    expires_at INTEGER,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX keys_by_client ON keys (client_id);

CREATE TABLE versions (
    id         TEXT    PRIMARY KEY,
    key_id     TEXT    NOT NULL REFERENCES keys (id),
    ring_id    INTEGER NOT NULL REFERENCES rings (id),
    digest     BLOB    NOT NULL CHECK (length(digest) = 32),
    state      TEXT    NOT NULL
               CHECK (state IN ('pending', 'active', 'retiring', 'retired', 'revoked', 'compromised')),
    not_before INTEGER,
    expires_at INTEGER, -- its own, whatever its overlap says
    retire_at  INTEGER, -- the end of its overlap, once it has a successor
    revision   INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    removed_at INTEGER  -- when proxies were told to forget it; the record stays
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX versions_by_digest ON versions (ring_id, digest);
CREATE UNIQUE INDEX versions_by_revision ON versions (ring_id, revision);
CREATE INDEX versions_by_key ON versions (key_id);
CREATE INDEX versions_to_remove ON versions (ended_at) WHERE ended_at IS NOT NULL AND removed_at IS NULL;

CREATE TABLE rotations (
    id              TEXT    PRIMARY KEY,
    key_id          TEXT    NOT NULL REFERENCES keys (id),
    old_version     TEXT    NOT NULL REFERENCES versions (id),
    new_version     TEXT    NOT NULL UNIQUE REFERENCES versions (id),
    state           TEXT    NOT NULL CHECK (state IN ('overlapping', 'completed', 'rolled_back')),
    ended_by        TEXT,
    overlap_ends_at INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    ended_at        INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX one_open_rotation_per_key ON rotations (key_id) WHERE state = 'overlapping';
CREATE INDEX rotations_by_deadline ON rotations (overlap_ends_at) WHERE state = 'overlapping';

CREATE TABLE signing_keys (
    id         TEXT    PRIMARY KEY,
    public_key TEXT    NOT NULL,
    sealed     BLOB    NOT NULL, -- under the master key, which is not in this database
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id         TEXT    PRIMARY KEY,
    hash       BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    role       TEXT    NOT NULL CHECK (role IN ('admin', 'proxy')),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    details    TEXT    NOT NULL, -- a JSON object without secrets
    request_id TEXT
) STRICT;
