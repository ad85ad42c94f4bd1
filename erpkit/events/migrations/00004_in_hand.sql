-- +goose Up
-- What a dispatcher took in hand and has not finished: it outlives the dispatcher's end, and its checkpoint takes it back.
ALTER TABLE erpkit_checkpoints
    ADD COLUMN in_hand  bigint,
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN taken_at timestamptz;

-- For windows of time: the log is in the order of its times, and so this is small and built in a moment.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX erpkit_events_recorded_at ON erpkit_events USING brin (recorded_at) WITH (autosummarize = on);

-- +goose Down
DROP INDEX erpkit_events_recorded_at;
ALTER TABLE erpkit_checkpoints DROP COLUMN in_hand, DROP COLUMN attempts, DROP COLUMN taken_at;
