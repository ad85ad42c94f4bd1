-- +goose Up
-- What a dispatcher took in hand and has not finished: it outlives the dispatcher's end, and its checkpoint takes it back.
ALTER TABLE erpkit_checkpoints
    ADD COLUMN in_hand  bigint,
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN taken_at timestamptz;

-- +goose Down
ALTER TABLE erpkit_checkpoints DROP COLUMN in_hand, DROP COLUMN attempts, DROP COLUMN taken_at;
