-- The ledger, version 4: what was made elsewhere is adopted, what was never sent is taken back, and a picture is looked at
-- before it counts.

-- How often another seed was drawn because a picture was rejected; `seed` is today's. And the seed that a job was sent
-- with, NULL where an older version bought it.
ALTER TABLE item ADD COLUMN rerolls INTEGER NOT NULL DEFAULT 0 CHECK (rerolls >= 0);
ALTER TABLE job ADD COLUMN seed TEXT;

-- What was made: one row for each picture. `rejected` ones are kept in a folder of their own and count for nothing.
-- `fingerprint` is that of the values it was made with, the same for all seeds of one prompt; `pixels_hash` is of its
-- pixels as they are encoded, without what is written beside them; `perceptual_hash` is 16 hex digits, of how it looks.
-- They are NULL where nobody worked them out.
CREATE TABLE image_4 (
    id               INTEGER PRIMARY KEY,
    item_id          INTEGER NOT NULL REFERENCES item (id),
    number           INTEGER NOT NULL,
    path             TEXT UNIQUE,
    sha256           TEXT NOT NULL,
    size_bytes       INTEGER NOT NULL,
    format           TEXT NOT NULL,
    width            INTEGER NOT NULL,
    height           INTEGER NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('storing', 'stored', 'superseded', 'rejected')),
    fingerprint      BLOB,
    pixels_hash      BLOB,
    perceptual_hash  TEXT
) STRICT;
INSERT INTO image_4 (id, item_id, number, path, sha256, size_bytes, format, width, height, state, fingerprint)
    SELECT image.id, item_id, number, path, sha256, size_bytes, format, width, height, image.state,
           iif(image.state = 'superseded', NULL, fingerprint)
    FROM image JOIN item ON item.id = item_id;
DROP TABLE image;
ALTER TABLE image_4 RENAME TO image;
CREATE INDEX image_by_item ON image (item_id);
CREATE INDEX image_by_fingerprint ON image (fingerprint, pixels_hash) WHERE fingerprint IS NOT NULL;

-- The list of moves is longer; the table is otherwise as it was, and so are the triggers that write it.
DROP TRIGGER item_wanted;
DROP TRIGGER item_moved;
CREATE TABLE event_4 (
    id       INTEGER PRIMARY KEY,
    item_id  INTEGER NOT NULL REFERENCES item (id),
    at       REAL NOT NULL,
    source   TEXT,
    state    TEXT NOT NULL,
    detail   TEXT,
    CHECK (
        CASE WHEN source IS NULL THEN state = 'wanted' ELSE source || '>' || state IN (
            'wanted>submitting',
            'wanted>failed',
            'wanted>stored',
            'wanted>cancelled',
            'submitting>accepted',
            'submitting>wanted',
            'submitting>failed',
            'submitting>unknown',
            'unknown>wanted',
            'accepted>storing',
            'accepted>submitting',
            'accepted>failed',
            'accepted>wanted',
            'accepted>given_up',
            'accepted>lost',
            'accepted>cancelled',
            'storing>stored',
            'storing>accepted',
            'stored>wanted',
            'stored>lost',
            'failed>wanted',
            'given_up>wanted',
            'lost>wanted',
            'cancelled>wanted') END
    )
) STRICT;
INSERT INTO event_4 SELECT id, item_id, at, source, state, detail FROM event;
DROP TABLE event;
ALTER TABLE event_4 RENAME TO event;
CREATE INDEX event_by_item ON event (item_id);

CREATE TRIGGER item_wanted AFTER INSERT ON item BEGIN
    INSERT INTO event (item_id, at, state, detail) VALUES (NEW.id, NEW.state_at, NEW.state, NEW.detail);
END;
CREATE TRIGGER item_moved AFTER UPDATE OF state ON item BEGIN
    INSERT INTO event (item_id, at, source, state, detail)
    VALUES (NEW.id, NEW.state_at, OLD.state, NEW.state, NEW.detail);
END;
