-- Uploaded pictures, normalised. One live row for each content of an org. The object's key holds the
-- asset's id, so that erasing a deleted asset can never hit a later upload of the same content.
CREATE TABLE assets (
    id           uuid        NOT NULL PRIMARY KEY,
    org_id       uuid        NOT NULL REFERENCES orgs (id),
    object_key   text        NOT NULL UNIQUE,
    sha256       bytea       NOT NULL CHECK (length(sha256) = 32),
    content_type text        NOT NULL,
    width        bigint      NOT NULL CHECK (width > 0),
    height       bigint      NOT NULL CHECK (height > 0),
    bytes        bigint      NOT NULL CHECK (bytes > 0),
    created_at   timestamptz NOT NULL,
    deleted_at   timestamptz
);

CREATE UNIQUE INDEX assets_by_content ON assets (org_id, sha256) WHERE deleted_at IS NULL;
CREATE INDEX assets_of_org ON assets (org_id, id) WHERE deleted_at IS NULL;
