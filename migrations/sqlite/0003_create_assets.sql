-- Uploaded pictures, normalised. One live row for each content of an org. The object's key holds the
-- asset's id, so that erasing a deleted asset can never hit a later upload of the same content.
CREATE TABLE assets (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    org_id       BLOB    NOT NULL REFERENCES orgs (id),
    object_key   TEXT    NOT NULL UNIQUE,
    sha256       BLOB    NOT NULL CHECK (length(sha256) = 32),
    content_type TEXT    NOT NULL,
    width        INTEGER NOT NULL CHECK (width > 0),
    height       INTEGER NOT NULL CHECK (height > 0),
    bytes        INTEGER NOT NULL CHECK (bytes > 0),
    created_at   INTEGER NOT NULL,
    deleted_at   INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX assets_by_content ON assets (org_id, sha256) WHERE deleted_at IS NULL;
CREATE INDEX assets_of_org ON assets (org_id, id) WHERE deleted_at IS NULL;
