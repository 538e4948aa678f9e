-- What was counted lately, by the minute, for whoever watches a rotation. The hours keep it for longer.
CREATE TABLE usage_minutes (
    version TEXT COLLATE "C" NOT NULL REFERENCES versions (id),
    minute  BIGINT NOT NULL, -- when it began
    count   BIGINT NOT NULL,
    PRIMARY KEY (version, minute)
);

CREATE INDEX usage_minutes_by_minute ON usage_minutes (minute);
