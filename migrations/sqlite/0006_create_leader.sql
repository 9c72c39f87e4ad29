-- Which replica leads, until when, and how often the lead was taken. A row and no lock: a lock outlives its holder when
-- the network is cut silently.
CREATE TABLE leader (
    id          INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    term        INTEGER NOT NULL,
    replica     BLOB    CHECK (length(replica) = 16),
    lease_until INTEGER NOT NULL
) STRICT;

INSERT INTO leader (id, term, replica, lease_until) VALUES (1, 0, NULL, 0);

CREATE TRIGGER terms_only_rise BEFORE UPDATE OF term ON leader WHEN NEW.term < OLD.term
BEGIN
    SELECT RAISE(ABORT, 'a term never falls');
END;
