-- +goose Up
CREATE TABLE catalog_price_list (
    sku          text PRIMARY KEY,
    price        numeric(12, 2) NOT NULL,
    as_of_offset bigint NOT NULL
);

-- +goose Down
DROP TABLE catalog_price_list;
