-- What must happen because a transaction was committed, in the order of commits.
CREATE TABLE outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic      jsonb       NOT NULL,
    tries      bigint      NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL,
    created_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);

CREATE INDEX outbox_by_due ON outbox (due_at, id);

-- Workers that announced themselves, and what they take.
CREATE TABLE workers (
    id      uuid        NOT NULL PRIMARY KEY,
    slots   bigint      NOT NULL CHECK (slots > 0),
    seen_at timestamptz NOT NULL
);

CREATE TABLE worker_lanes (
    worker_id uuid NOT NULL REFERENCES workers (id) ON DELETE CASCADE,
    pool      text NOT NULL,
    release   text NOT NULL,
    class     text NOT NULL CHECK (class IN ('interactive', 'batch')),
    PRIMARY KEY (worker_id, pool, release, class)
);
