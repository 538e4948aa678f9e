-- Versions that begin later, rotations that wait for them, and what is brought back or never accepted again.

-- The epoch in which an operator brought the version back; proxies that carried its denial over take it back.
ALTER TABLE versions ADD COLUMN reinstated_in TEXT;

CREATE INDEX versions_to_begin ON versions (not_before) WHERE state = 'pending';
CREATE INDEX versions_to_retire ON versions (retire_at) WHERE state = 'retiring';

-- Refused for ever, in every ring, whether a ring had them or not.
CREATE TABLE compromised_digests (
    digest BLOB    PRIMARY KEY CHECK (length(digest) = 32),
    at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- SQLite cannot change a CHECK in place.
CREATE TABLE rotations_new (
    id              TEXT    PRIMARY KEY,
    key_id          TEXT    NOT NULL REFERENCES keys (id),
    old_version     TEXT    NOT NULL REFERENCES versions (id),
    new_version     TEXT    NOT NULL UNIQUE REFERENCES versions (id),
    state           TEXT    NOT NULL CHECK (state IN
                    ('distributing', 'overlapping', 'draining', 'completed', 'rolled_back', 'blocked')),
    ended_by        TEXT,
    begins_at       INTEGER NOT NULL, -- from when on the new version is accepted
    overlap_ends_at INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    ended_at        INTEGER
) STRICT, WITHOUT ROWID;

INSERT INTO rotations_new
SELECT id, key_id, old_version, new_version, state, ended_by, created_at, overlap_ends_at, created_at, ended_at
FROM rotations;

DROP TABLE rotations;
ALTER TABLE rotations_new RENAME TO rotations;

CREATE UNIQUE INDEX one_open_rotation_per_key ON rotations (key_id) WHERE ended_at IS NULL;
