-- +goose Up
CREATE TABLE inventory_shortages (
    order_id uuid NOT NULL,
    sku      text NOT NULL,
    lacking  integer NOT NULL CHECK (lacking > 0),
    is_open  boolean NOT NULL DEFAULT true,
    PRIMARY KEY (order_id, sku)
);
CREATE INDEX inventory_shortages_open ON inventory_shortages (sku) WHERE is_open;

-- +goose Down
DROP TABLE inventory_shortages;
