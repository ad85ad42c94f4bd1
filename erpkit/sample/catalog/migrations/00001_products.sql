-- +goose Up
CREATE TABLE catalog_categories (
    name text PRIMARY KEY
);
CREATE TABLE catalog_products (
    sku        text PRIMARY KEY,
    name       text NOT NULL,
    category   text NOT NULL REFERENCES catalog_categories (name),
    price      numeric(12, 2) NOT NULL CHECK (price >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX catalog_products_category ON catalog_products (category);

-- +goose Down
DROP TABLE catalog_products;
DROP TABLE catalog_categories;
