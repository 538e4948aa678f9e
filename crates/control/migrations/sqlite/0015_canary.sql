-- A canary shows the versions of its main ring by revisions of its own, and gets what is new first.

ALTER TABLE rings ADD COLUMN canary_of INTEGER REFERENCES rings (id);
ALTER TABLE rings ADD COLUMN canary_base INTEGER; -- the main ring's revision when the canary was made
ALTER TABLE rings ADD COLUMN pause INTEGER;       -- milliseconds
ALTER TABLE rings ADD COLUMN promote TEXT CHECK (promote IN ('when_enforced', 'after_pause'));

CREATE UNIQUE INDEX one_canary_per_ring ON rings (canary_of) WHERE canary_of IS NOT NULL;

-- NULL: it did not change since the canary was made, which shows it by the main ring's revision.
ALTER TABLE versions ADD COLUMN canary_revision INTEGER;
-- When the main ring gets it at the latest. Until then it has no revision there, and a number below 0 in its place.
ALTER TABLE versions ADD COLUMN promote_at INTEGER CHECK ((promote_at IS NULL) = (revision > 0));

CREATE UNIQUE INDEX versions_by_canary_revision ON versions (ring_id, canary_revision)
    WHERE canary_revision IS NOT NULL;
CREATE INDEX versions_to_promote ON versions (ring_id, promote_at) WHERE promote_at IS NOT NULL;
