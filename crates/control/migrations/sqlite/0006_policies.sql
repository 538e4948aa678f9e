-- Labels, policies, rotations that run by them, and what is announced beforehand.

ALTER TABLE clients ADD COLUMN labels TEXT NOT NULL DEFAULT '{}'; -- a JSON object of strings
ALTER TABLE keys ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';

CREATE TABLE policies (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    terms      TEXT    NOT NULL, -- a JSON object
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- A key's own policy goes before its client's, and that before its ring's.
ALTER TABLE keys ADD COLUMN policy_id INTEGER REFERENCES policies (id);
ALTER TABLE clients ADD COLUMN policy_id INTEGER REFERENCES policies (id);
ALTER TABLE rings ADD COLUMN policy_id INTEGER REFERENCES policies (id);

ALTER TABLE keys ADD COLUMN look_at INTEGER;  -- when the scheduler looks at the key next
ALTER TABLE keys ADD COLUMN due_at INTEGER;   -- when its next rotation is due
ALTER TABLE keys ADD COLUMN start_at INTEGER; -- when it is started with the version that waits for it
ALTER TABLE keys ADD COLUMN schedule TEXT CHECK (schedule IN ('scheduled', 'due', 'overdue'));
ALTER TABLE keys ADD COLUMN next_version TEXT; -- deposited by whoever made its text
ALTER TABLE keys ADD COLUMN next_digest BLOB CHECK (length(next_digest) = 32);

CREATE INDEX keys_to_look_at ON keys (look_at) WHERE look_at IS NOT NULL;
CREATE INDEX keys_to_start ON keys (start_at) WHERE start_at IS NOT NULL;
CREATE INDEX keys_by_policy ON keys (policy_id) WHERE policy_id IS NOT NULL;

ALTER TABLE versions ADD COLUMN brownout_share INTEGER; -- of 10,000
ALTER TABLE versions ADD COLUMN brownout_until INTEGER;

-- The terms that a rotation began with.
ALTER TABLE rotations ADD COLUMN retire TEXT NOT NULL DEFAULT 'deadline' CHECK (retire IN ('deadline', 'when_unused'));
ALTER TABLE rotations ADD COLUMN quiet INTEGER;          -- milliseconds
ALTER TABLE rotations ADD COLUMN deadline INTEGER NOT NULL DEFAULT 0; -- the end of its overlap, whatever ends it earlier
ALTER TABLE rotations ADD COLUMN automatic INTEGER NOT NULL DEFAULT 0; -- 1: started by its schedule
ALTER TABLE rotations ADD COLUMN only_old INTEGER NOT NULL DEFAULT 0; -- 1: the old version alone gives way
ALTER TABLE rotations ADD COLUMN check_at INTEGER;       -- when its usage is judged next
ALTER TABLE rotations ADD COLUMN waits_for TEXT;         -- a JSON array: why it does not end yet
ALTER TABLE rotations ADD COLUMN evidence TEXT;          -- a JSON object: why it ends before its deadline
ALTER TABLE rotations ADD COLUMN brownout_share INTEGER; -- of 10,000: what its policy plans
ALTER TABLE rotations ADD COLUMN brownout_before INTEGER; -- milliseconds before the deadline
ALTER TABLE rotations ADD COLUMN brownout_at INTEGER;    -- when that begins; NULL once it has

UPDATE rotations SET deadline = overlap_ends_at;

CREATE INDEX rotations_to_check ON rotations (check_at) WHERE check_at IS NOT NULL;
CREATE INDEX rotations_to_brown_out ON rotations (brownout_at) WHERE brownout_at IS NOT NULL;
CREATE INDEX rotations_by_schedule ON rotations (created_at) WHERE automatic = 1;

-- What was announced. A row is written once, whoever looks how often.
CREATE TABLE notices (
    id      INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    key_id  TEXT    NOT NULL REFERENCES keys (id),
    kind    TEXT    NOT NULL,
    step_at INTEGER NOT NULL, -- when what it announces happens
    lead    INTEGER NOT NULL, -- so many milliseconds before, by its policy
    UNIQUE (key_id, kind, step_at, lead)
) STRICT;

CREATE INDEX notices_by_time ON notices (at);
