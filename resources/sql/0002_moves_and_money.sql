-- The ledger, version 2: a move that is not allowed cannot be written, every purchase has a row from its intent on, and
-- what a job can cost is recorded before it is bought.

-- Why an item is in its state, and the execution timeout (milliseconds) that was sent with its job: the most it can cost.
ALTER TABLE item ADD COLUMN detail TEXT;
ALTER TABLE item ADD COLUMN execution_timeout_ms INTEGER;

-- What happened, in order. Rows are written by the triggers below and never changed. `source` is the state before, NULL
-- for the first; the list is that of asyncgen/lifecycle.py (tests/test_lifecycle.py compares them).
CREATE TABLE event_2 (
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
INSERT INTO event_2
    SELECT id, item_id, at, lag(state) OVER (PARTITION BY item_id ORDER BY id), state, detail FROM event;
DROP TABLE event;
ALTER TABLE event_2 RENAME TO event;
CREATE INDEX event_by_item ON event (item_id);

CREATE TRIGGER item_wanted AFTER INSERT ON item BEGIN
    INSERT INTO event (item_id, at, state, detail) VALUES (NEW.id, NEW.state_at, NEW.state, NEW.detail);
END;
CREATE TRIGGER item_moved AFTER UPDATE OF state ON item BEGIN
    INSERT INTO event (item_id, at, source, state, detail)
    VALUES (NEW.id, NEW.state_at, OLD.state, NEW.state, NEW.detail);
END;

-- What was or may have been bought: one row for each submission from its intent on, gone again where it was certainly
-- not accepted. `job_id` is NULL until the platform has said it; `outcome` is NULL while the job is out, 'unknown' where
-- it was never learned whether there is one. The price is NULL where nobody knew it.
CREATE TABLE job_2 (
    id                    INTEGER PRIMARY KEY,
    item_id               INTEGER NOT NULL REFERENCES item (id),
    run_id                INTEGER REFERENCES run (id),
    attempt               INTEGER NOT NULL,
    endpoint              TEXT NOT NULL,
    job_id                TEXT,
    submitted_at          REAL NOT NULL,
    accepted_at           REAL,
    ended_at              REAL,
    outcome               TEXT,
    delay_ms              INTEGER,
    execution_ms          INTEGER,
    worker_id             TEXT,
    execution_timeout_ms  INTEGER NOT NULL,
    usd_per_second        REAL CHECK (usd_per_second > 0)
) STRICT;
-- Version 1 kept no row of what was never accepted for certain, and sent at the most the platform's default timeout.
INSERT INTO job_2 (id, item_id, attempt, endpoint, job_id, submitted_at, accepted_at, ended_at, outcome, delay_ms,
                   execution_ms, worker_id, execution_timeout_ms)
    SELECT id, item_id, attempt, endpoint, job_id, accepted_at, accepted_at, ended_at, outcome, delay_ms, execution_ms,
           worker_id, 600000
    FROM job;
INSERT INTO job_2 (item_id, attempt, endpoint, submitted_at, outcome, execution_timeout_ms)
    SELECT id, attempts, endpoint, state_at, iif(state = 'unknown', 'unknown', NULL), 600000
    FROM item WHERE state IN ('submitting', 'unknown');
-- Version 1 left the end of a job standing whose result was to be fetched again.
UPDATE job_2 SET ended_at = NULL, outcome = NULL
    WHERE id IN (SELECT max(job_2.id) FROM job_2 JOIN item ON item.id = job_2.item_id WHERE item.state = 'accepted'
                 GROUP BY item.id);
UPDATE item SET execution_timeout_ms = 600000 WHERE state IN ('submitting', 'accepted', 'storing');
DROP TABLE job;
ALTER TABLE job_2 RENAME TO job;
CREATE INDEX job_by_item ON job (item_id);

-- Lines of the manifest hold the request now, for a ledger to be rebuilt from: the file is written anew.
UPDATE manifest SET size_bytes = -1 WHERE event_id > 0;
