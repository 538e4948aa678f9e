-- What proxies said of themselves. A proxy is here before it gets its first page or change, and until somebody forgets
-- it: what is not here cannot be missed when a change is said to be enforced everywhere.
CREATE TABLE proxies (
    ring_id      BIGINT NOT NULL REFERENCES rings (id),
    node         TEXT COLLATE "C" NOT NULL,
    instance     TEXT COLLATE "C" NOT NULL,
    filter       TEXT NOT NULL,
    vms          BIGINT NOT NULL,
    epoch        TEXT, -- of the ring that it holds
    stored       BIGINT NOT NULL,
    enforced     BIGINT NOT NULL,
    age          BIGINT NOT NULL, -- seconds, of its ring when it was last seen
    refuse_after BIGINT, -- seconds of age from which on it refuses every request
    trust        TEXT, -- ids of signing keys, with commas between; NULL where it does not say
    first_seen   BIGINT NOT NULL,
    last_seen    BIGINT NOT NULL,
    PRIMARY KEY (ring_id, node, instance)
);

CREATE INDEX proxies_by_last_seen ON proxies (ring_id, last_seen);
