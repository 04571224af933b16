-- The ledger, version 1. One file for each version: a later one changes what an earlier one made.
-- Times are Unix seconds (REAL), durations milliseconds, sizes bytes. Seeds reach 2^64-1, past SQLite's integers: TEXT.

CREATE TABLE batch (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    realm       TEXT NOT NULL CHECK (realm IN ('runpod', 'sandbox')),
    created_at  REAL NOT NULL,
    UNIQUE (realm, name)
) STRICT;

-- What is wanted: one row for each job to be bought, whatever became of it.
CREATE TABLE item (
    id              INTEGER PRIMARY KEY,
    request_id      TEXT NOT NULL UNIQUE,
    batch_id        INTEGER NOT NULL REFERENCES batch (id),
    content_key     BLOB NOT NULL,
    occurrence      INTEGER NOT NULL,
    replica         INTEGER NOT NULL,
    said            TEXT NOT NULL,
    spec            TEXT NOT NULL,
    fingerprint     BLOB NOT NULL,
    style_id        TEXT,
    seed            TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN
                        ('wanted', 'submitting', 'accepted', 'storing', 'stored',
                         'failed', 'given_up', 'cancelled', 'lost', 'unknown')),
    state_at        REAL NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    endpoint        TEXT,
    job_id          TEXT,
    accepted_at     REAL,
    failure_class   TEXT,
    failure_code    TEXT,
    failure_message TEXT,
    UNIQUE (batch_id, content_key, occurrence),
    CHECK (state NOT IN ('accepted', 'storing', 'stored', 'lost') OR (endpoint IS NOT NULL AND job_id IS NOT NULL)),
    CHECK (state NOT IN ('submitting', 'unknown') OR endpoint IS NOT NULL),
    CHECK (state NOT IN ('failed', 'given_up', 'lost', 'unknown') OR failure_code IS NOT NULL)
) STRICT;
CREATE INDEX item_by_state ON item (batch_id, state);
CREATE INDEX item_by_style ON item (style_id, state_at) WHERE state = 'stored';

-- What was bought: one row for each job the platform accepted.
CREATE TABLE job (
    id            INTEGER PRIMARY KEY,
    item_id       INTEGER NOT NULL REFERENCES item (id),
    attempt       INTEGER NOT NULL,
    endpoint      TEXT NOT NULL,
    job_id        TEXT NOT NULL,
    accepted_at   REAL NOT NULL,
    ended_at      REAL,
    outcome       TEXT,
    delay_ms      INTEGER,
    execution_ms  INTEGER,
    worker_id     TEXT
) STRICT;
CREATE INDEX job_by_item ON job (item_id);

-- What was made: one row for each picture. `path` is relative to the output root; NULL was delivered in memory.
CREATE TABLE image (
    id          INTEGER PRIMARY KEY,
    item_id     INTEGER NOT NULL REFERENCES item (id),
    number      INTEGER NOT NULL,
    path        TEXT UNIQUE,
    sha256      TEXT NOT NULL,
    size_bytes  INTEGER NOT NULL,
    format      TEXT NOT NULL,
    width       INTEGER NOT NULL,
    height      INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('storing', 'stored', 'superseded'))
) STRICT;
CREATE INDEX image_by_item ON image (item_id);

-- What happened, in order. Nothing here is ever changed.
CREATE TABLE event (
    id       INTEGER PRIMARY KEY,
    item_id  INTEGER NOT NULL REFERENCES item (id),
    at       REAL NOT NULL,
    state    TEXT NOT NULL,
    detail   TEXT
) STRICT;
CREATE INDEX event_by_item ON event (item_id);

CREATE TABLE run (
    id          INTEGER PRIMARY KEY,
    batch_id    INTEGER NOT NULL REFERENCES batch (id),
    started_at  REAL NOT NULL,
    ended_at    REAL,
    outcome     TEXT
) STRICT;

-- How far the manifest file has been written: the last event it covers and its size in bytes; and the output root that
-- it and every path belong to: '.' where the ledger lies in it, so that both may be moved, NULL while there is none.
CREATE TABLE manifest (
    only_row     INTEGER PRIMARY KEY CHECK (only_row = 1),
    event_id     INTEGER NOT NULL,
    size_bytes   INTEGER NOT NULL,
    output_root  TEXT
) STRICT;
INSERT INTO manifest VALUES (1, 0, 0, NULL);
