-- +goose Up
-- Where a group began (events up to start_offset were never meant for it), and that it waits after failures, until when and why.
-- topics were all read up to read_offset: a dispatcher of another version may know fewer of them, and moves the checkpoint alone.
ALTER TABLE erpkit_checkpoints
    ADD COLUMN start_offset bigint NOT NULL DEFAULT 0,
    ADD COLUMN started_at   timestamptz,
    ADD COLUMN topics       text[],
    ADD COLUMN read_offset  bigint,
    ADD COLUMN paused_until timestamptz,
    ADD COLUMN pauses       integer NOT NULL DEFAULT 0,
    ADD COLUMN tries        integer NOT NULL DEFAULT 0,
    ADD COLUMN error        text;

-- +goose Down
ALTER TABLE erpkit_checkpoints
    DROP COLUMN error,
    DROP COLUMN tries,
    DROP COLUMN pauses,
    DROP COLUMN paused_until,
    DROP COLUMN read_offset,
    DROP COLUMN topics,
    DROP COLUMN started_at,
    DROP COLUMN start_offset;
