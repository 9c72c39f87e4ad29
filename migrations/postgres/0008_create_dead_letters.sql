-- Renders that took workers down again and again: somebody has to look at them. Their credits went back when they
-- ended; what is decided here is only whether they are rendered again, as another render.
CREATE TABLE dead_letters (
    render_id   uuid        NOT NULL PRIMARY KEY REFERENCES renders (id),
    resolved_at timestamptz,
    replay_id   uuid        UNIQUE REFERENCES renders (id),
    CHECK (replay_id IS NULL OR resolved_at IS NOT NULL)
);

CREATE INDEX dead_letters_open ON dead_letters (render_id) WHERE resolved_at IS NULL;

CREATE TRIGGER dead_letters_are_decided_once BEFORE UPDATE ON dead_letters
    FOR EACH ROW WHEN (OLD.resolved_at IS NOT NULL) EXECUTE FUNCTION refuse('a dead letter is decided once');
