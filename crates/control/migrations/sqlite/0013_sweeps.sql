-- Keys that are to be planned anew because what they follow changed. There may be a million of them, so they are marked
-- a thousand at a time.
CREATE TABLE sweeps (
    id    INTEGER PRIMARY KEY,
    what  TEXT    NOT NULL CHECK (what IN ('policy', 'client', 'ring')),
    of_id INTEGER NOT NULL,            -- of the policy, the client or the ring whose keys they are
    past  TEXT    NOT NULL DEFAULT '', -- the id of the last key that was marked
    at    INTEGER NOT NULL
) STRICT;

-- So that a ring's entries are counted in an index: all of its versions but these.
CREATE INDEX versions_removed ON versions (ring_id) WHERE removed_at IS NOT NULL;
