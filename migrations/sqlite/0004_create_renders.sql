-- Renders, their history and what they delivered.
CREATE TABLE renders (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    org_id              BLOB    NOT NULL REFERENCES orgs (id),
    status              TEXT    NOT NULL CHECK (status IN
                            ('queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    revision            INTEGER NOT NULL CHECK (revision >= 1),
    model               TEXT    NOT NULL,
    spec                TEXT    NOT NULL,
    pool                TEXT    NOT NULL,
    release             TEXT    NOT NULL,
    class               TEXT    NOT NULL CHECK (class IN ('interactive', 'batch')),
    person_id           BLOB    NOT NULL REFERENCES assets (id),
    garment_id          BLOB    NOT NULL REFERENCES assets (id),
    price               INTEGER NOT NULL CHECK (price >= 0),
    estimate_ms         INTEGER NOT NULL CHECK (estimate_ms > 0),
    device_ms           INTEGER,
    attempt             INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    epoch               INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    worker_id           BLOB,
    -- Until when a worker may hold the claim, or a job message may be on its way.
    lease_until         INTEGER,
    -- A retry waits until then.
    not_before          INTEGER NOT NULL,
    failures            INTEGER NOT NULL DEFAULT 0,
    crashes             INTEGER NOT NULL DEFAULT 0,
    lost_leases         INTEGER NOT NULL DEFAULT 0,
    failure             TEXT,
    cancel_requested_at INTEGER,
    cancelled_at_step   INTEGER,
    watermark           BLOB    NOT NULL UNIQUE CHECK (length(watermark) = 8),
    webhook             TEXT,
    metadata            TEXT,
    created_at          INTEGER NOT NULL,
    started_at          INTEGER,
    finished_at         INTEGER,
    deleted_at          INTEGER,
    CHECK ((status IN ('succeeded', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)),
    CHECK ((status IN ('dispatched', 'running')) = (lease_until IS NOT NULL)),
    CHECK ((status = 'running') = (worker_id IS NOT NULL)),
    CHECK (deleted_at IS NULL OR finished_at IS NOT NULL),
    CHECK (person_id <> garment_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX renders_of_org ON renders (org_id, id) WHERE deleted_at IS NULL;
-- What the dispatcher picks from and what it counts: both stay small when the history grows.
CREATE INDEX renders_waiting ON renders (pool, release, class, id) WHERE status = 'queued';
CREATE INDEX renders_in_flight ON renders (pool, release, class) WHERE status IN ('dispatched', 'running');
CREATE INDEX renders_by_lease ON renders (lease_until) WHERE status IN ('dispatched', 'running');
CREATE INDEX renders_waiting_since ON renders (created_at) WHERE status = 'queued';
CREATE INDEX renders_of_person ON renders (person_id) WHERE status IN ('queued', 'dispatched', 'running');
CREATE INDEX renders_of_garment ON renders (garment_id) WHERE status IN ('queued', 'dispatched', 'running');

CREATE TRIGGER renders_move_only_forward BEFORE UPDATE OF status ON renders
WHEN OLD.status <> NEW.status AND (OLD.status || '>' || NEW.status) NOT IN (
    'queued>dispatched', 'queued>cancelled', 'queued>expired',
    'dispatched>queued', 'dispatched>running', 'dispatched>cancelled',
    'running>queued', 'running>succeeded', 'running>failed', 'running>cancelled'
)
BEGIN
    SELECT RAISE(ABORT, 'illegal transition of a render');
END;

CREATE TABLE render_transitions (
    render_id  BLOB    NOT NULL REFERENCES renders (id),
    revision   INTEGER NOT NULL,
    transition TEXT,
    status     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    attempt    INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (render_id, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    render_id    BLOB    NOT NULL REFERENCES renders (id),
    sample       INTEGER NOT NULL CHECK (sample BETWEEN 0 AND 3),
    object_key   TEXT    NOT NULL UNIQUE,
    sha256       BLOB    NOT NULL CHECK (length(sha256) = 32),
    content_type TEXT    NOT NULL,
    width        INTEGER NOT NULL CHECK (width > 0),
    height       INTEGER NOT NULL CHECK (height > 0),
    bytes        INTEGER NOT NULL CHECK (bytes > 0),
    created_at   INTEGER NOT NULL,
    UNIQUE (render_id, sample)
) STRICT, WITHOUT ROWID;
