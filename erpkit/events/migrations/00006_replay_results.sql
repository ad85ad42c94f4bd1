-- +goose Up
-- What a replay needs to go on where it stopped: the plan, how far it came, and what became of each event.
ALTER TABLE erpkit_replays
    ADD COLUMN state       text NOT NULL DEFAULT 'done' CHECK (state IN ('running', 'cancelled', 'done', 'failed')),
    ADD COLUMN last_offset bigint NOT NULL DEFAULT 0,
    ADD COLUMN until       bigint NOT NULL DEFAULT 0,
    ADD COLUMN planned     bigint NOT NULL DEFAULT 0,
    ADD COLUMN resolved    integer NOT NULL DEFAULT 0,
    ADD COLUMN error       text;

-- One row an event and handler. To forget old ones, delete their replay.
CREATE TABLE erpkit_replay_results (
    replay_id uuid NOT NULL REFERENCES erpkit_replays (replay_id) ON DELETE CASCADE,
    handler   text NOT NULL,
    "offset"  bigint NOT NULL,
    uuid      uuid NOT NULL,
    state     text NOT NULL CHECK (state IN ('handled', 'failed')),
    error     text,
    PRIMARY KEY (replay_id, handler, "offset")
);

-- +goose Down
DROP TABLE erpkit_replay_results;
ALTER TABLE erpkit_replays
    DROP COLUMN error,
    DROP COLUMN resolved,
    DROP COLUMN planned,
    DROP COLUMN until,
    DROP COLUMN last_offset,
    DROP COLUMN state;
