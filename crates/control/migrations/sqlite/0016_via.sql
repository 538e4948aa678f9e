-- The relay that a proxy asks, by its node; NULL where it asks by itself.
ALTER TABLE proxies ADD COLUMN via TEXT;
