-- Whose turn it is: a key that had a job claimed has its next turn at `pass`; `job_floor` is the turn that was taken last,
-- and no key's turn is before it.
ALTER TABLE jobs ADD COLUMN weight INTEGER NOT NULL DEFAULT 1;
CREATE INDEX jobs_unfinished ON jobs (key) WHERE ended_at_ms IS NULL;

CREATE TABLE job_turns (
    key  TEXT    PRIMARY KEY,
    pass INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE job_floor (pass INTEGER NOT NULL) STRICT;
INSERT INTO job_floor (pass) VALUES (0);
