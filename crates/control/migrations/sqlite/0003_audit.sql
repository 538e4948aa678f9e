-- Audit records are chained by hash, and checkpoints sign how far the chain went.

-- SQL has no SHA-256: the next start chains what is here, and drops this table.
ALTER TABLE audit RENAME TO audit_unchained;

CREATE TABLE audit (
    seq            INTEGER PRIMARY KEY CHECK (seq > 0),
    at             INTEGER NOT NULL,
    actor          TEXT    NOT NULL,
    action         TEXT    NOT NULL,
    resource       TEXT    NOT NULL,
    before         TEXT, -- JSON without secrets, and so is what follows
    after          TEXT,
    request_id     TEXT,
    client_address TEXT,
    previous       BLOB    NOT NULL CHECK (length(previous) = 32),
    hash           BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TABLE audit_checkpoints (
    id        INTEGER PRIMARY KEY,
    seq       INTEGER NOT NULL,
    hash      BLOB    NOT NULL CHECK (length(hash) = 32),
    at        INTEGER NOT NULL,
    signer    TEXT    NOT NULL,
    signature TEXT    NOT NULL
) STRICT;
