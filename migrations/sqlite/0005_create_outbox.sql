-- What must happen because a transaction was committed, in the order of commits.
CREATE TABLE outbox (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    topic      TEXT    NOT NULL,
    tries      INTEGER NOT NULL DEFAULT 0,
    due_at     INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX outbox_by_due ON outbox (due_at, id);

-- Workers that announced themselves, and what they take.
CREATE TABLE workers (
    id      BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    slots   INTEGER NOT NULL CHECK (slots > 0),
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE worker_lanes (
    worker_id BLOB NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
    pool      TEXT NOT NULL,
    release   TEXT NOT NULL,
    class     TEXT NOT NULL CHECK (class IN ('interactive', 'batch')),
    PRIMARY KEY (worker_id, pool, release, class)
) STRICT, WITHOUT ROWID;
