-- +goose Up
-- Where the events of a replay went, if not to handlers: to a broker's subject.
ALTER TABLE erpkit_replays ADD COLUMN target jsonb;

-- What went to a broker is sent, or was known to it. The old states are among the new ones: old rows need no look.
-- squawk-ignore ban-drop-constraint
ALTER TABLE erpkit_replay_results
    DROP CONSTRAINT erpkit_replay_results_state_check,
    ADD CONSTRAINT erpkit_replay_results_state_check CHECK (state IN ('handled', 'failed', 'sent', 'known')) NOT VALID;

-- +goose Down
DELETE FROM erpkit_replays WHERE target IS NOT NULL;
-- squawk-ignore ban-drop-constraint
ALTER TABLE erpkit_replay_results
    DROP CONSTRAINT erpkit_replay_results_state_check,
    ADD CONSTRAINT erpkit_replay_results_state_check CHECK (state IN ('handled', 'failed')) NOT VALID;
ALTER TABLE erpkit_replays DROP COLUMN target;
