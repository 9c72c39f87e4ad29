-- Rows of one render are carried out in the order of their commits, also when one of them is put off.
ALTER TABLE outbox ADD COLUMN render_id uuid;

-- Put off rows, which are few, so that the later rows of their renders can wait behind them.
CREATE INDEX outbox_put_off ON outbox (render_id, id) WHERE tries > 0;
