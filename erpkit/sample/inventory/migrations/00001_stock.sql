-- +goose Up
CREATE TABLE inventory_stock (
    sku      text PRIMARY KEY REFERENCES catalog_products (sku),
    on_hand  integer NOT NULL DEFAULT 0,
    reserved integer NOT NULL DEFAULT 0,
    CHECK (reserved BETWEEN 0 AND on_hand)
);

-- +goose Down
DROP TABLE inventory_stock;
