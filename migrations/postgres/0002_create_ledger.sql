-- The double-entry ledger. Each happening writes two entries of opposite sign: one on the org's
-- account and one on a system account. System accounts have no balance row, so that no row is hot
-- for everyone; they are summed when somebody asks.
CREATE TABLE accounts (
    org_id uuid   NOT NULL PRIMARY KEY REFERENCES orgs (id),
    posted bigint NOT NULL,
    held   bigint NOT NULL,
    CONSTRAINT held_within_posted CHECK (0 <= held AND held <= posted)
);

CREATE TABLE ledger_entries (
    id           uuid        NOT NULL PRIMARY KEY,
    -- Whose happening it is; for both of its entries.
    org_id       uuid        NOT NULL REFERENCES orgs (id),
    account      text        NOT NULL CHECK (account IN ('org', 'grants', 'revenue')),
    kind         text        NOT NULL CHECK (kind IN ('grant', 'hold', 'capture', 'void', 'refund')),
    render_id    uuid,
    -- The payer's own name for a grant.
    reference    text,
    amount       bigint      NOT NULL CHECK (amount >= 0),
    posted       bigint      NOT NULL,
    held         bigint      NOT NULL,
    posted_after bigint,
    held_after   bigint,
    created_at   timestamptz NOT NULL,
    CHECK ((account = 'org') = (posted_after IS NOT NULL)),
    CHECK ((posted_after IS NULL) = (held_after IS NULL)),
    CHECK ((kind = 'grant') = (render_id IS NULL)),
    CHECK ((kind = 'grant') = (reference IS NOT NULL))
);

CREATE INDEX ledger_entries_of_org ON ledger_entries (org_id, id) WHERE account = 'org';
CREATE UNIQUE INDEX ledger_kind_once_per_render ON ledger_entries (render_id, account, kind)
    WHERE render_id IS NOT NULL;
CREATE UNIQUE INDEX ledger_one_settlement_per_render ON ledger_entries (render_id, account)
    WHERE kind IN ('capture', 'void');
CREATE UNIQUE INDEX ledger_grant_once ON ledger_entries (org_id, account, reference)
    WHERE kind = 'grant';

CREATE TRIGGER ledger_entries_never_change BEFORE UPDATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('ledger entries are append-only');
CREATE TRIGGER ledger_entries_never_vanish BEFORE DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('ledger entries are append-only');

-- The entries move the money, and nothing else does: a statement writes whole happenings, whose two sides cancel
-- each other out, and the org's accounts follow. The newest entry of an org says what its account says then.
CREATE FUNCTION move_balances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT 1 FROM written GROUP BY org_id, kind, render_id, reference
        HAVING sum(posted) <> 0 OR sum(held) <> 0 OR count(*) <> 2
    ) THEN
        RAISE EXCEPTION 'the entries of a happening do not sum to zero'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    UPDATE accounts SET posted = accounts.posted + moved.posted, held = accounts.held + moved.held
        FROM (SELECT org_id, sum(posted)::bigint AS posted, sum(held)::bigint AS held
              FROM written WHERE account = 'org' GROUP BY org_id) AS moved
        WHERE accounts.org_id = moved.org_id;
    IF EXISTS (
        SELECT 1 FROM (SELECT DISTINCT ON (org_id) org_id, posted_after, held_after
                       FROM written WHERE account = 'org' ORDER BY org_id, id DESC) AS newest
        LEFT JOIN accounts USING (org_id)
        WHERE (accounts.posted, accounts.held) IS DISTINCT FROM (newest.posted_after, newest.held_after)
    ) THEN
        RAISE EXCEPTION 'an entry says another balance than its account'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER ledger_entries_move_balances AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION move_balances();

CREATE TRIGGER accounts_open_empty BEFORE INSERT ON accounts
    FOR EACH ROW WHEN (NEW.posted <> 0 OR NEW.held <> 0) EXECUTE FUNCTION refuse('an account opens with nothing');
CREATE TRIGGER accounts_follow_the_ledger BEFORE UPDATE ON accounts
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION refuse('balances move by ledger entries only');
CREATE TRIGGER accounts_never_vanish BEFORE DELETE OR TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse('accounts are never removed');
