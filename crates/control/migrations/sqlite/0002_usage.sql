-- What proxies counted. A count is no state change: it has no audit record and takes no revision.

-- The newest minute in which a proxy accepted the version. NULL: no report says so.
ALTER TABLE versions ADD COLUMN last_used_at INTEGER;

CREATE TABLE usage_hours (
    version     TEXT    NOT NULL REFERENCES versions (id),
    hour        INTEGER NOT NULL, -- when it began
    outcome     TEXT    NOT NULL,
    count       INTEGER NOT NULL,
    last_minute INTEGER NOT NULL,
    PRIMARY KEY (version, hour, outcome)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_hours_by_hour ON usage_hours (hour);

CREATE TABLE usage_vms (
    ring_id       INTEGER NOT NULL REFERENCES rings (id),
    instance      TEXT    NOT NULL,
    vm            TEXT    NOT NULL,
    node          TEXT    NOT NULL,
    first_seen    INTEGER NOT NULL,
    last_batch    INTEGER NOT NULL,
    missing       INTEGER NOT NULL, -- batches that never came
    missing_since INTEGER,          -- when that showed first
    covered_from  INTEGER NOT NULL, -- since then no batch is missing
    covered_to    INTEGER NOT NULL,
    received_at   INTEGER NOT NULL,
    PRIMARY KEY (ring_id, instance, vm)
) STRICT, WITHOUT ROWID;
