-- +goose Up
-- What a consumer has in hand from the broker, noted before it begins: what stays here after a redelivery ended its process.
CREATE TABLE erpkit_deliveries (
    handler  text NOT NULL,
    uuid     uuid NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    PRIMARY KEY (handler, uuid)
);

-- +goose Down
DROP TABLE erpkit_deliveries;
