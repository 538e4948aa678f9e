-- What requests with an Idempotency-Key were answered, without any secret.
CREATE TABLE repeats (
    caller      TEXT COLLATE "C" NOT NULL, -- the id of a token
    key         TEXT COLLATE "C" NOT NULL,
    request     TEXT NOT NULL, -- method and path
    fingerprint BYTEA NOT NULL, -- SHA-256 of the body
    status      BIGINT NOT NULL,
    answer      TEXT NOT NULL,
    at          BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);

CREATE INDEX repeats_by_time ON repeats (at);
