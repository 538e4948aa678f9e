-- What requests with an Idempotency-Key were answered, without any secret.
CREATE TABLE repeats (
    caller      TEXT NOT NULL, -- the id of a token
    key         TEXT NOT NULL,
    request     TEXT NOT NULL, -- method and path
    fingerprint BLOB NOT NULL, -- SHA-256 of the body
    status      INTEGER NOT NULL,
    answer      TEXT NOT NULL,
    at          INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX repeats_by_time ON repeats (at);
