-- Times are milliseconds since 1970 on the database's clock. Stores remember this file's hash: add a file, never edit one.
-- No table names its schema: the connection's search_path is the bot's own and nothing else.

CREATE TABLE inbox (
    publisher    TEXT    COLLATE "C" NOT NULL,
    id           TEXT    COLLATE "C" NOT NULL,
    replay       BIGINT  NOT NULL,
    content_hash TEXT    NOT NULL,
    settled      BOOLEAN NOT NULL,
    attempt      BIGINT  NOT NULL,
    seen_at_ms   BIGINT  NOT NULL,
    PRIMARY KEY (publisher, id, replay)
);
CREATE INDEX inbox_by_age ON inbox (seen_at_ms);

CREATE TABLE state (
    key      TEXT   COLLATE "C" PRIMARY KEY,
    version  BIGINT NOT NULL,
    document TEXT   NOT NULL
);

-- Numbers are given by a sequence, never twice, so a late `mark_sent` cannot hit another row. Writers take turns, so a
-- lower number is never seen after a higher one.
CREATE TABLE outbox (
    seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange    TEXT   NOT NULL,
    routing_key TEXT   NOT NULL,
    priority    BIGINT NOT NULL,
    properties  TEXT   NOT NULL,
    body        BYTEA  NOT NULL
);

CREATE TABLE jobs (
    position       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id             TEXT   COLLATE "C" NOT NULL UNIQUE,
    kind           TEXT   NOT NULL,
    key            TEXT   COLLATE "C" NOT NULL,
    exclusive      TEXT   COLLATE "C",
    weight         BIGINT NOT NULL DEFAULT 1,
    status         TEXT   COLLATE "C" NOT NULL,
    attempt        BIGINT NOT NULL DEFAULT 0,
    token          BIGINT NOT NULL DEFAULT 0,
    created_at_ms  BIGINT NOT NULL,
    not_before_ms  BIGINT NOT NULL,
    holder         TEXT,
    lease_until_ms BIGINT,
    cancel         TEXT,
    last_error     TEXT,
    ended_at_ms    BIGINT,
    payload        TEXT   NOT NULL,
    meta           TEXT   NOT NULL
);
CREATE INDEX jobs_waiting ON jobs (position, not_before_ms) WHERE status = 'waiting';
CREATE INDEX jobs_running ON jobs (position, lease_until_ms) WHERE status = 'running';
CREATE INDEX jobs_by_exclusive ON jobs (exclusive, status, position) WHERE exclusive IS NOT NULL;
CREATE INDEX jobs_by_end ON jobs (ended_at_ms) WHERE ended_at_ms IS NOT NULL;
CREATE INDEX jobs_unfinished ON jobs (key) WHERE ended_at_ms IS NULL;

CREATE TABLE job_steps (
    job   TEXT COLLATE "C" NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    step  TEXT COLLATE "C" NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (job, step)
);

-- Whose turn it is: a key that had a job claimed has its next turn at `pass`; `job_floor` is the turn that was taken last,
-- and no key's turn is before it.
CREATE TABLE job_turns (
    key  TEXT   COLLATE "C" PRIMARY KEY,
    pass BIGINT NOT NULL
);

CREATE TABLE job_floor (pass BIGINT NOT NULL);
INSERT INTO job_floor (pass) VALUES (0);

CREATE TABLE timers (
    generation BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       TEXT   COLLATE "C" NOT NULL UNIQUE,
    key        TEXT   NOT NULL,
    due_at_ms  BIGINT NOT NULL,
    data       TEXT   NOT NULL,
    meta       TEXT   NOT NULL
);
CREATE INDEX timers_by_due ON timers (due_at_ms);

CREATE TABLE started (
    body_hash  TEXT   COLLATE "C" PRIMARY KEY,
    starts     BIGINT NOT NULL,
    last_at_ms BIGINT NOT NULL
);
CREATE INDEX started_by_age ON started (last_at_ms);

CREATE TABLE meta (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);

-- What one replica does for all, which one that is, and until when.
CREATE TABLE leads (
    what     TEXT   COLLATE "C" PRIMARY KEY,
    who      TEXT   NOT NULL,
    until_ms BIGINT NOT NULL
);
