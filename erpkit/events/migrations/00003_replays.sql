-- +goose Up
CREATE TABLE erpkit_replays (
    replay_id    uuid PRIMARY KEY,
    plan_id      text NOT NULL,
    selection    jsonb NOT NULL,
    handlers     text[] NOT NULL,
    requested_by text NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz,
    handled      integer NOT NULL DEFAULT 0,
    failed       integer NOT NULL DEFAULT 0
);

-- +goose Down
DROP TABLE erpkit_replays;
