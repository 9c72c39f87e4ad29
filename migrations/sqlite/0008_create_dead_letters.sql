-- Renders that took workers down again and again: somebody has to look at them. Their credits went back when they
-- ended; what is decided here is only whether they are rendered again, as another render.
CREATE TABLE dead_letters (
    render_id   BLOB    NOT NULL PRIMARY KEY REFERENCES renders (id),
    resolved_at INTEGER,
    replay_id   BLOB    UNIQUE REFERENCES renders (id),
    CHECK (replay_id IS NULL OR resolved_at IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE INDEX dead_letters_open ON dead_letters (render_id) WHERE resolved_at IS NULL;

CREATE TRIGGER dead_letters_are_decided_once BEFORE UPDATE ON dead_letters WHEN OLD.resolved_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a dead letter is decided once');
END;
