-- What an installation without certificates of its own signs Content Credentials with, made at its first start. It is a
-- row so that all replicas sign with the same; a real signing key is never written here.
CREATE TABLE authority (
    id   integer NOT NULL PRIMARY KEY CHECK (id = 1),
    kept text    NOT NULL
);
