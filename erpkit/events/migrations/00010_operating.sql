-- +goose Up
-- Find all that one command caused. A bloom filter for each 32 pages costs an append next to nothing, where a B-tree of random ids
-- takes half of its rate; and it is built in a moment.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX erpkit_events_correlation ON erpkit_events
    USING brin ((metadata->>'correlation_id') text_bloom_ops) WITH (pages_per_range = 32, autosummarize = on);

-- A program that inserts into the log without the lock of append may commit after readers have passed its offset. So its rows get
-- a new offset when it commits, under that lock, which others wait for only as long as the commit takes.
-- +goose StatementBegin
CREATE FUNCTION erpkit_take_offset() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('erpkit.append.' || TG_TABLE_SCHEMA, 0));
    IF pg_try_advisory_xact_lock(hashtextextended('erpkit.awake.' || TG_TABLE_SCHEMA, 0)) THEN
        PERFORM pg_notify('erpkit_events', TG_TABLE_SCHEMA);
    END IF;
    EXECUTE format('UPDATE %I.%I SET "offset" = DEFAULT WHERE uuid = $1', TG_TABLE_SCHEMA, TG_TABLE_NAME) USING NEW.uuid;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

-- Append has the lock, and says so for its transaction: its rows cost one comparison each, and queue nothing.
CREATE CONSTRAINT TRIGGER erpkit_events_take_offset AFTER INSERT ON erpkit_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (current_setting('erpkit.append', true) IS DISTINCT FROM NEW.tableoid::text) EXECUTE FUNCTION erpkit_take_offset();

-- The payload with which a dead letter is retried in place of the event's, and every edit of it.
ALTER TABLE erpkit_dead_letters ADD COLUMN payload jsonb;
CREATE TABLE erpkit_letter_edits (
    id        bigserial PRIMARY KEY,
    handler   text NOT NULL,
    uuid      uuid NOT NULL,
    before    jsonb NOT NULL,
    after     jsonb NOT NULL,
    plan_id   text NOT NULL,
    edited_by text NOT NULL,
    reason    text NOT NULL,
    edited_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX erpkit_letter_edits_letter ON erpkit_letter_edits (handler, uuid);

-- What was handled before that time may have no row in the inbox any more.
ALTER TABLE erpkit_checkpoints ADD COLUMN inbox_since timestamptz;

-- +goose Down
ALTER TABLE erpkit_checkpoints DROP COLUMN inbox_since;
DROP TABLE erpkit_letter_edits;
ALTER TABLE erpkit_dead_letters DROP COLUMN payload;
DROP TRIGGER erpkit_events_take_offset ON erpkit_events;
DROP FUNCTION erpkit_take_offset();
DROP INDEX erpkit_events_correlation;
