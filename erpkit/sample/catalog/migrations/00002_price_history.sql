-- +goose Up
CREATE TABLE catalog_price_history (
    id         bigserial PRIMARY KEY,
    sku        text NOT NULL REFERENCES catalog_products (sku),
    old_price  numeric(12, 2) NOT NULL,
    new_price  numeric(12, 2) NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- +goose StatementBegin
CREATE FUNCTION catalog_keep_price() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.price <> OLD.price THEN
        INSERT INTO catalog_price_history (sku, old_price, new_price) VALUES (NEW.sku, OLD.price, NEW.price);
    END IF;
    RETURN NEW;
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER catalog_keep_price BEFORE UPDATE ON catalog_products
    FOR EACH ROW EXECUTE FUNCTION catalog_keep_price();

-- +goose Down
DROP TRIGGER catalog_keep_price ON catalog_products;
DROP FUNCTION catalog_keep_price();
DROP TABLE catalog_price_history;
