-- Times are milliseconds since 1970 on the database's clock. Stores remember this file's hash: add a file, never edit one.

CREATE TABLE inbox (
    publisher    TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    replay       INTEGER NOT NULL,
    content_hash TEXT    NOT NULL,
    settled      INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    seen_at_ms   INTEGER NOT NULL,
    PRIMARY KEY (publisher, id, replay)
) STRICT, WITHOUT ROWID;
CREATE INDEX inbox_by_age ON inbox (seen_at_ms);

CREATE TABLE state (
    key      TEXT    PRIMARY KEY,
    version  INTEGER NOT NULL,
    document TEXT    NOT NULL
) STRICT;

-- AUTOINCREMENT here and below: a number is never given twice, so a late `mark_sent` cannot hit another row.
CREATE TABLE outbox (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    exchange      TEXT    NOT NULL,
    routing_key   TEXT    NOT NULL,
    priority      INTEGER NOT NULL,
    refused_at_ms INTEGER,
    properties    TEXT    NOT NULL,
    body          BLOB    NOT NULL
) STRICT;

CREATE TABLE jobs (
    position       INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT    NOT NULL UNIQUE,
    kind           TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    exclusive      TEXT,
    status         TEXT    NOT NULL,
    attempt        INTEGER NOT NULL DEFAULT 0,
    token          INTEGER NOT NULL DEFAULT 0,
    created_at_ms  INTEGER NOT NULL,
    not_before_ms  INTEGER NOT NULL,
    holder         TEXT,
    lease_until_ms INTEGER,
    cancel         TEXT,
    last_error     TEXT,
    ended_at_ms    INTEGER,
    payload        TEXT    NOT NULL,
    meta           TEXT    NOT NULL
) STRICT;
CREATE INDEX jobs_waiting ON jobs (position, not_before_ms) WHERE status = 'waiting';
CREATE INDEX jobs_running ON jobs (position, lease_until_ms) WHERE status = 'running';
CREATE INDEX jobs_by_exclusive ON jobs (exclusive, status, position) WHERE exclusive IS NOT NULL;
CREATE INDEX jobs_by_end ON jobs (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

CREATE TABLE job_steps (
    job   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    step  TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (job, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE timers (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    key        TEXT    NOT NULL,
    due_at_ms  INTEGER NOT NULL,
    data       TEXT    NOT NULL,
    meta       TEXT    NOT NULL
) STRICT;
CREATE INDEX timers_by_due ON timers (due_at_ms);

CREATE TABLE started (
    body_hash  TEXT    PRIMARY KEY,
    starts     INTEGER NOT NULL,
    last_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX started_by_age ON started (last_at_ms);

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
