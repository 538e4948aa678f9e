-- What proxies said of themselves. A proxy is here before it gets its first page or change, and until somebody forgets
-- it: what is not here cannot be missed when a change is said to be enforced everywhere.
CREATE TABLE proxies (
    ring_id      INTEGER NOT NULL REFERENCES rings (id),
    node         TEXT    NOT NULL,
    instance     TEXT    NOT NULL,
    filter       TEXT NOT NULL,
    vms          INTEGER NOT NULL,
    epoch        TEXT, -- of the ring that it holds
    stored       INTEGER NOT NULL,
    enforced     INTEGER NOT NULL,
    age          INTEGER NOT NULL, -- seconds, of its ring when it was last seen
    refuse_after INTEGER, -- seconds of age from which on it refuses every request
    trust        TEXT, -- ids of signing keys, with commas between; NULL where it does not say
    first_seen   INTEGER NOT NULL,
    last_seen    INTEGER NOT NULL,
    PRIMARY KEY (ring_id, node, instance)
) STRICT, WITHOUT ROWID;

CREATE INDEX proxies_by_last_seen ON proxies (ring_id, last_seen);
