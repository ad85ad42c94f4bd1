-- +goose Up
CREATE TABLE inventory_reservations (
    order_id uuid NOT NULL,
    sku      text NOT NULL REFERENCES inventory_stock (sku),
    quantity integer NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, sku)
);

-- +goose StatementBegin
CREATE FUNCTION inventory_reserve(for_order uuid, wanted_sku text, wanted integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO inventory_reservations (order_id, sku, quantity) VALUES (for_order, wanted_sku, wanted);
    UPDATE inventory_stock SET reserved = reserved + wanted WHERE sku = wanted_sku;
END;
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION inventory_reserve(uuid, text, integer);
DROP TABLE inventory_reservations;
