-- name: AddCategory :exec
-- Add a category, if it is new.
INSERT INTO catalog_categories (name) VALUES (sqlc.arg(name)) ON CONFLICT DO NOTHING;

-- name: AddProduct :exec
-- Add a product.
INSERT INTO catalog_products (sku, name, category, price)
VALUES (sqlc.arg(sku), sqlc.arg(name), sqlc.arg(category), sqlc.arg(price));

-- name: SetPrice :exec
-- Give a product another price.
UPDATE catalog_products SET price = sqlc.arg(price) WHERE sku = sqlc.arg(sku);

-- name: ListPrice :exec
-- Keep the newest price of a product in the price list.
INSERT INTO catalog_price_list (sku, price, as_of_offset)
VALUES (sqlc.arg(sku), sqlc.arg(price), sqlc.narg(as_of_offset))
ON CONFLICT (sku) DO UPDATE SET price = EXCLUDED.price, as_of_offset = EXCLUDED.as_of_offset
WHERE catalog_price_list.as_of_offset <= EXCLUDED.as_of_offset;
