-- +goose Up
CREATE TABLE erpkit_events (
    "offset"    bigserial PRIMARY KEY,
    uuid        uuid NOT NULL UNIQUE,
    topic       text NOT NULL,
    payload     jsonb NOT NULL,
    metadata    jsonb NOT NULL DEFAULT '{}',
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX erpkit_events_topic ON erpkit_events (topic, "offset");

CREATE TABLE erpkit_checkpoints (
    consumer_group text PRIMARY KEY,
    "offset"       bigint NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE erpkit_inbox (
    handler    text NOT NULL,
    uuid       uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (handler, uuid)
);

-- +goose Down
DROP TABLE erpkit_inbox;
DROP TABLE erpkit_checkpoints;
DROP TABLE erpkit_events;
