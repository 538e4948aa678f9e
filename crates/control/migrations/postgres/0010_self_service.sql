-- A key that starts its own rotation is held to so many within an hour, and a repeated request finds what the first
-- one made. Both are asked for by whoever holds a key, so neither may read the whole table.
CREATE INDEX rotations_by_key ON rotations (key_id, created_at);
CREATE INDEX rotations_by_new_version ON rotations (new_version);
