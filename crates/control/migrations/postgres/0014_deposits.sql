-- A leaked secret is looked for among those to which keys are to rotate, too.
CREATE INDEX keys_next_digest ON keys (next_digest) WHERE next_digest IS NOT NULL;
