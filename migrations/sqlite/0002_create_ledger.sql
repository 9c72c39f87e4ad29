-- The double-entry ledger. Each happening writes two entries of opposite sign: one on the org's
-- account and one on a system account. System accounts have no balance row, so that no row is hot
-- for everyone; they are summed when somebody asks.
CREATE TABLE accounts (
    org_id BLOB    NOT NULL PRIMARY KEY REFERENCES orgs (id),
    posted INTEGER NOT NULL,
    held   INTEGER NOT NULL,
    CONSTRAINT held_within_posted CHECK (0 <= held AND held <= posted)
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger_entries (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- Whose happening it is; for both of its entries.
    org_id       BLOB    NOT NULL REFERENCES orgs (id),
    account      TEXT    NOT NULL CHECK (account IN ('org', 'grants', 'revenue')),
    kind         TEXT    NOT NULL CHECK (kind IN ('grant', 'hold', 'capture', 'void', 'refund')),
    render_id    BLOB    CHECK (length(render_id) = 16),
    -- The payer's own name for a grant.
    reference    TEXT,
    amount       INTEGER NOT NULL CHECK (amount >= 0),
    posted       INTEGER NOT NULL,
    held         INTEGER NOT NULL,
    posted_after INTEGER,
    held_after   INTEGER,
    created_at   INTEGER NOT NULL,
    CHECK ((account = 'org') = (posted_after IS NOT NULL)),
    CHECK ((posted_after IS NULL) = (held_after IS NULL)),
    CHECK ((kind = 'grant') = (render_id IS NULL)),
    CHECK ((kind = 'grant') = (reference IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_entries_of_org ON ledger_entries (org_id, id) WHERE account = 'org';
CREATE UNIQUE INDEX ledger_kind_once_per_render ON ledger_entries (render_id, account, kind)
    WHERE render_id IS NOT NULL;
CREATE UNIQUE INDEX ledger_one_settlement_per_render ON ledger_entries (render_id, account)
    WHERE kind IN ('capture', 'void');
CREATE UNIQUE INDEX ledger_grant_once ON ledger_entries (org_id, account, reference)
    WHERE kind = 'grant';

CREATE TRIGGER ledger_entries_never_change BEFORE UPDATE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger entries are append-only');
END;

CREATE TRIGGER ledger_entries_never_vanish BEFORE DELETE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger entries are append-only');
END;
