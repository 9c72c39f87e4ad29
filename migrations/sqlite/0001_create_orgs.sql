-- Tenants and their keys. Only the SHA-256 of a key's secret is kept: the secret has 256 random
-- bits, so a slow password hash would add nothing.
CREATE TABLE orgs (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id            BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    org_id        BLOB    NOT NULL REFERENCES orgs (id),
    label         TEXT    NOT NULL CHECK (length(label) <= 200),
    secret_sha256 BLOB    NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    created_at    INTEGER NOT NULL,
    revoked_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX api_keys_of_org ON api_keys (org_id, id);

-- Requests by their Idempotency-Key. While a request is under way it holds the key with a token and
-- until `reserved_until`; when it is done the row names what it made and never lapses.
CREATE TABLE idempotency_keys (
    org_id         BLOB    NOT NULL REFERENCES orgs (id),
    key            TEXT    NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint    BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    token          INTEGER NOT NULL,
    reserved_until INTEGER NOT NULL,
    resource_kind  TEXT    CHECK (resource_kind IN ('asset', 'render', 'cancellation')),
    resource_id    BLOB    CHECK (length(resource_id) = 16),
    PRIMARY KEY (org_id, key),
    CHECK ((resource_kind IS NULL) = (resource_id IS NULL))
) STRICT, WITHOUT ROWID;

-- One key, one resource: a second render under the same key cannot be recorded.
CREATE UNIQUE INDEX idempotency_keys_of_resource ON idempotency_keys (resource_kind, resource_id)
    WHERE resource_kind = 'render';
