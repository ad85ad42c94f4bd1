-- +goose Up
CREATE TABLE erpkit_dead_letters (
    id        bigserial PRIMARY KEY,
    handler   text NOT NULL,
    uuid      uuid NOT NULL,
    "offset"  bigint NOT NULL,
    topic     text NOT NULL,
    error     text NOT NULL,
    attempts  integer NOT NULL,
    status    text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'resolved', 'discarded')),
    failed_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (handler, uuid)
);

-- +goose Down
DROP TABLE erpkit_dead_letters;
