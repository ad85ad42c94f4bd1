-- +goose Up
ALTER TABLE erpkit_dead_letters
    ADD COLUMN aggregate   text,
    ADD COLUMN resolved_at timestamptz,
    ADD COLUMN resolved_by text,
    ADD COLUMN reason      text;
-- Dead letters are few: the index is there in a moment.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX erpkit_dead_letters_blocking ON erpkit_dead_letters (handler, aggregate, "offset")
    WHERE status = 'open' AND aggregate IS NOT NULL;

CREATE TABLE erpkit_parked (
    handler   text NOT NULL,
    uuid      uuid NOT NULL,
    "offset"  bigint NOT NULL,
    aggregate text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (handler, uuid)
);
CREATE INDEX erpkit_parked_aggregate ON erpkit_parked (handler, aggregate, "offset");

-- +goose Down
DROP TABLE erpkit_parked;
DROP INDEX erpkit_dead_letters_blocking;
ALTER TABLE erpkit_dead_letters
    DROP COLUMN reason,
    DROP COLUMN resolved_by,
    DROP COLUMN resolved_at,
    DROP COLUMN aggregate;
