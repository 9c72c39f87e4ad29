-- Tenants and their keys. Only the SHA-256 of a key's secret is kept: the secret has 256 random
-- bits, so a slow password hash would add nothing.
CREATE TABLE orgs (
    id         uuid        NOT NULL PRIMARY KEY,
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL
);

CREATE TABLE api_keys (
    id            uuid        NOT NULL PRIMARY KEY,
    org_id        uuid        NOT NULL REFERENCES orgs (id),
    label         text        NOT NULL CHECK (length(label) <= 200),
    secret_sha256 bytea       NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    created_at    timestamptz NOT NULL,
    revoked_at    timestamptz
);

CREATE INDEX api_keys_of_org ON api_keys (org_id, id);

-- Requests by their Idempotency-Key. While a request is under way it holds the key with a token and
-- until `reserved_until`; when it is done the row names what it made and never lapses.
CREATE TABLE idempotency_keys (
    org_id         uuid        NOT NULL REFERENCES orgs (id),
    key            text        NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    fingerprint    bytea       NOT NULL CHECK (length(fingerprint) = 32),
    token          bigint      NOT NULL,
    reserved_until timestamptz NOT NULL,
    resource_kind  text        CHECK (resource_kind IN ('asset', 'render', 'cancellation')),
    resource_id    uuid,
    PRIMARY KEY (org_id, key),
    CHECK ((resource_kind IS NULL) = (resource_id IS NULL))
);

-- One key, one resource: a second render under the same key cannot be recorded.
CREATE UNIQUE INDEX idempotency_keys_of_resource ON idempotency_keys (resource_kind, resource_id)
    WHERE resource_kind = 'render';

-- What a request made stays what it made.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER idempotency_keys_never_change_what_was_made BEFORE UPDATE ON idempotency_keys
    FOR EACH ROW WHEN (OLD.resource_id IS NOT NULL)
    EXECUTE FUNCTION refuse('a completed idempotency key never changes');
