-- Which replica leads, until when, and how often the lead was taken. A row and no lock: a lock outlives its holder when
-- the network is cut silently.
CREATE TABLE leader (
    id          bigint      NOT NULL PRIMARY KEY CHECK (id = 1),
    term        bigint      NOT NULL,
    replica     uuid,
    lease_until timestamptz NOT NULL
);

INSERT INTO leader (id, term, replica, lease_until) VALUES (1, 0, NULL, 'epoch');

CREATE TRIGGER terms_only_rise BEFORE UPDATE OF term ON leader
    FOR EACH ROW WHEN (NEW.term < OLD.term) EXECUTE FUNCTION refuse('a term never falls');
