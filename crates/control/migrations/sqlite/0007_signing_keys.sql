-- Signing keys take turns, and a restored copy opens a new epoch.

-- SQLite adds no column that must have a value but no default.
CREATE TABLE signing_keys_new (
    id         TEXT    PRIMARY KEY,
    ring_id    INTEGER NOT NULL REFERENCES rings (id),
    public_key TEXT    NOT NULL,
    sealed     BLOB    NOT NULL, -- under the master key, which is not in this database
    state      TEXT    NOT NULL CHECK (state IN ('created', 'published', 'active', 'retired')),
    activation INTEGER NOT NULL, -- which turn its last one was, over all rings; 0: it has not signed
    created_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO signing_keys_new
SELECT id, (SELECT min(id) FROM rings), public_key, sealed,
       CASE WHEN id = (SELECT id FROM signing_keys ORDER BY created_at DESC, id DESC LIMIT 1)
            THEN 'active' ELSE 'retired' END,
       1, created_at, created_at
FROM signing_keys;

DROP TABLE signing_keys;
ALTER TABLE signing_keys_new RENAME TO signing_keys;

CREATE UNIQUE INDEX one_active_signing_key_per_ring ON signing_keys (ring_id) WHERE state = 'active';

CREATE TABLE restores (
    id            INTEGER PRIMARY KEY,
    ring_id       INTEGER NOT NULL REFERENCES rings (id),
    at            INTEGER NOT NULL,
    from_epoch    TEXT    NOT NULL, -- what the copy held: its epoch, revision and last audit record
    from_revision INTEGER NOT NULL,
    audit_seq     INTEGER NOT NULL,
    audit_hash    BLOB    NOT NULL CHECK (length(audit_hash) = 32),
    finished_at   INTEGER           -- until then nothing of the ring is published
) STRICT;

CREATE UNIQUE INDEX one_open_restore_per_ring ON restores (ring_id) WHERE finished_at IS NULL;
