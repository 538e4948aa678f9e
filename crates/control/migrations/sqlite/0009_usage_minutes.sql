-- What was counted lately, by the minute, for whoever watches a rotation. The hours keep it for longer.
CREATE TABLE usage_minutes (
    version TEXT NOT NULL REFERENCES versions (id),
    minute  INTEGER NOT NULL, -- when it began
    count   INTEGER NOT NULL,
    PRIMARY KEY (version, minute)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_minutes_by_minute ON usage_minutes (minute);
