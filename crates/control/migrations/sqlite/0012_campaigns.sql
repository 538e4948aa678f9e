-- Many keys, rotated in waves. What was selected is kept, so that there is a whole to be a part of.
CREATE TABLE campaigns (
    id              INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL UNIQUE,
    ring_id         INTEGER NOT NULL REFERENCES rings (id),
    request         TEXT    NOT NULL, -- a JSON object: what was asked for, with the ring's name
    state           TEXT    NOT NULL CHECK (state IN
                    ('running', 'paused', 'halted', 'rolling_back', 'completed', 'cancelled', 'rolled_back')),
    halted_by       TEXT,             -- a JSON object
    selected        INTEGER NOT NULL,
    wave_keys       INTEGER NOT NULL, -- of one wave
    wave            INTEGER NOT NULL DEFAULT 0, -- the latest one's number
    starting        INTEGER NOT NULL DEFAULT 0, -- 1: rotations of that one are still to be started
    begun_at        INTEGER,          -- when the first one started
    next_wave_at    INTEGER NOT NULL,
    wave_revision   INTEGER NOT NULL DEFAULT 0, -- of the ring, after the last rotation of a wave
    -- What there was when it was last resumed, which is not held against it any more.
    rolled_before   INTEGER NOT NULL DEFAULT 0,
    refused_before  INTEGER NOT NULL DEFAULT 0,
    requests_before INTEGER NOT NULL DEFAULT 0,
    rolling_after   TEXT    NOT NULL DEFAULT '', -- keys up to this one were rolled back
    steps           INTEGER NOT NULL DEFAULT 0, -- how often this row changed: who read another number does nothing
    look_at         INTEGER,          -- when the scheduler looks at it next
    created_at      INTEGER NOT NULL,
    ended_at        INTEGER
) STRICT;

CREATE INDEX campaigns_to_look_at ON campaigns (look_at) WHERE look_at IS NOT NULL;

CREATE TABLE campaign_waves (
    campaign_id INTEGER NOT NULL REFERENCES campaigns (id),
    number      INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    PRIMARY KEY (campaign_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE campaign_keys (
    campaign_id INTEGER NOT NULL REFERENCES campaigns (id),
    key_id      TEXT    NOT NULL REFERENCES keys (id),
    replaces    TEXT    REFERENCES versions (id), -- where several are accepted beside each other
    state       TEXT    NOT NULL CHECK (state IN ('waiting', 'rotating', 'done', 'rolled_back', 'skipped')),
    why         TEXT,    -- it was skipped
    wave        INTEGER, -- NULL: none, also when somebody else rotated it
    rotation_id TEXT    REFERENCES rotations (id),
    PRIMARY KEY (campaign_id, key_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX campaign_keys_by_state ON campaign_keys (campaign_id, state, wave, key_id);
CREATE INDEX campaign_keys_by_key ON campaign_keys (key_id);
CREATE INDEX campaign_keys_by_rotation ON campaign_keys (rotation_id) WHERE rotation_id IS NOT NULL;
