-- Renders, their history and what they delivered. Rows change often and few columns of them are indexed: the fill
-- factor leaves room for updates within the page.
CREATE TABLE renders (
    id                  uuid        NOT NULL PRIMARY KEY,
    org_id              uuid        NOT NULL REFERENCES orgs (id),
    status              text        NOT NULL CHECK (status IN
                            ('queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    revision            bigint      NOT NULL CHECK (revision >= 1),
    model               text        NOT NULL,
    spec                jsonb       NOT NULL,
    pool                text        NOT NULL,
    release             text        NOT NULL,
    class               text        NOT NULL CHECK (class IN ('interactive', 'batch')),
    person_id           uuid        NOT NULL REFERENCES assets (id),
    garment_id          uuid        NOT NULL REFERENCES assets (id),
    price               bigint      NOT NULL CHECK (price >= 0),
    estimate_ms         bigint      NOT NULL CHECK (estimate_ms > 0),
    device_ms           bigint,
    attempt             bigint      NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    epoch               bigint      NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    worker_id           uuid,
    -- Until when a worker may hold the claim, or a job message may be on its way.
    lease_until         timestamptz,
    -- A retry waits until then.
    not_before          timestamptz NOT NULL,
    failures            bigint      NOT NULL DEFAULT 0,
    crashes             bigint      NOT NULL DEFAULT 0,
    lost_leases         bigint      NOT NULL DEFAULT 0,
    failure             json,
    cancel_requested_at timestamptz,
    cancelled_at_step   bigint,
    watermark           bytea       NOT NULL UNIQUE CHECK (length(watermark) = 8),
    webhook             text,
    -- The caller's own words; `json` gives them back as they came.
    metadata            json,
    created_at          timestamptz NOT NULL,
    started_at          timestamptz,
    finished_at         timestamptz,
    deleted_at          timestamptz,
    CHECK ((status IN ('succeeded', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)),
    CHECK ((status IN ('dispatched', 'running')) = (lease_until IS NOT NULL)),
    CHECK ((status = 'running') = (worker_id IS NOT NULL)),
    CHECK (deleted_at IS NULL OR finished_at IS NOT NULL),
    CHECK (person_id <> garment_id)
) WITH (fillfactor = 80);

CREATE INDEX renders_of_org ON renders (org_id, id) WHERE deleted_at IS NULL;
CREATE INDEX renders_of_org_by_status ON renders (org_id, status, id) WHERE deleted_at IS NULL;
-- What the dispatcher picks from and what it counts: both stay small when the history grows. The order is by the bytes
-- of the id, which is the same order and one that no other index has: the planner would else walk the primary key
-- through the whole backlog of other lanes.
CREATE INDEX renders_waiting ON renders (pool, release, class, uuid_send(id)) WHERE status = 'queued';
CREATE INDEX renders_in_flight ON renders (pool, release, class) WHERE status IN ('dispatched', 'running');
CREATE INDEX renders_by_lease ON renders (lease_until) WHERE status IN ('dispatched', 'running');
CREATE INDEX renders_waiting_since ON renders (created_at) WHERE status = 'queued';
CREATE INDEX renders_of_person ON renders (person_id) WHERE status IN ('queued', 'dispatched', 'running');
CREATE INDEX renders_of_garment ON renders (garment_id) WHERE status IN ('queued', 'dispatched', 'running');

CREATE TRIGGER renders_move_only_forward BEFORE UPDATE OF status ON renders
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND (OLD.status || '>' || NEW.status) NOT IN (
        'queued>dispatched', 'queued>cancelled', 'queued>expired',
        'dispatched>queued', 'dispatched>running', 'dispatched>cancelled',
        'running>queued', 'running>succeeded', 'running>failed', 'running>cancelled'
    ))
    EXECUTE FUNCTION refuse('illegal transition of a render');

CREATE TRIGGER renders_count_only_upwards BEFORE UPDATE OF status, revision, epoch, attempt ON renders
    FOR EACH ROW WHEN (NEW.revision < OLD.revision OR NEW.epoch < OLD.epoch OR NEW.attempt < OLD.attempt
        OR (NEW.status <> OLD.status AND NEW.revision = OLD.revision))
    EXECUTE FUNCTION refuse('revision, epoch and attempt of a render never fall');

CREATE TRIGGER renders_keep_their_terms BEFORE UPDATE OF org_id, spec, price, watermark, created_at ON renders
    FOR EACH ROW WHEN (OLD.org_id <> NEW.org_id OR OLD.spec <> NEW.spec OR OLD.price <> NEW.price
        OR OLD.watermark <> NEW.watermark OR OLD.created_at <> NEW.created_at)
    EXECUTE FUNCTION refuse('what was ordered never changes');

CREATE TRIGGER renders_never_vanish BEFORE DELETE OR TRUNCATE ON renders
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('renders are hidden, never removed');

-- Looked at when the transaction commits: a render that lives has one open hold, one that ended is settled once.
CREATE FUNCTION render_is_held_or_settled() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    holds bigint;
    captures bigint;
    voids bigint;
    now_is text;
BEGIN
    SELECT status INTO now_is FROM renders WHERE id = NEW.id;
    SELECT count(*) FILTER (WHERE kind = 'hold'), count(*) FILTER (WHERE kind = 'capture'),
            count(*) FILTER (WHERE kind = 'void')
        INTO holds, captures, voids
        FROM ledger_entries WHERE render_id = NEW.id AND account = 'org';
    IF holds <> 1 OR captures <> (now_is = 'succeeded')::int
        OR voids <> (now_is IN ('failed', 'cancelled', 'expired'))::int THEN
        RAISE EXCEPTION 'render % is % with % holds, % captures and % voids', NEW.id, now_is, holds, captures, voids
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER renders_are_held AFTER INSERT ON renders
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION render_is_held_or_settled();
CREATE CONSTRAINT TRIGGER renders_are_settled AFTER UPDATE OF status ON renders
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND NEW.finished_at IS NOT NULL)
    EXECUTE FUNCTION render_is_held_or_settled();

CREATE TABLE render_transitions (
    render_id  uuid        NOT NULL REFERENCES renders (id),
    revision   bigint      NOT NULL,
    transition text,
    status     text        NOT NULL,
    reason     text        NOT NULL,
    attempt    bigint      NOT NULL,
    epoch      bigint      NOT NULL,
    at         timestamptz NOT NULL,
    PRIMARY KEY (render_id, revision)
);

CREATE TABLE artifacts (
    id           uuid        NOT NULL PRIMARY KEY,
    render_id    uuid        NOT NULL REFERENCES renders (id),
    sample       bigint      NOT NULL CHECK (sample BETWEEN 0 AND 3),
    object_key   text        NOT NULL UNIQUE,
    sha256       bytea       NOT NULL CHECK (length(sha256) = 32),
    content_type text        NOT NULL,
    width        bigint      NOT NULL CHECK (width > 0),
    height       bigint      NOT NULL CHECK (height > 0),
    bytes        bigint      NOT NULL CHECK (bytes > 0),
    created_at   timestamptz NOT NULL,
    UNIQUE (render_id, sample)
);
