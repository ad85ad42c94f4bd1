-- name: ReceiveStock :exec
-- Add goods to what is on hand.
INSERT INTO inventory_stock (sku, on_hand) VALUES (sqlc.arg(sku), sqlc.arg(quantity))
ON CONFLICT (sku) DO UPDATE SET on_hand = inventory_stock.on_hand + EXCLUDED.on_hand;

-- name: LockStock :many
-- Keep others off these products' stock until the transaction ends, and return it.
SELECT sku, on_hand, reserved FROM inventory_stock WHERE sku = ANY (sqlc.arg(skus)::text[]) ORDER BY sku FOR UPDATE;

-- name: Reserve :exec
-- Keep so many of each product for an order; the two arrays go together.
SELECT inventory_reserve(sqlc.arg(order_id), unnest(sqlc.arg(skus)::text[]), unnest(sqlc.arg(quantities)::integer[]));

-- name: ListStock :many
-- List what is on the shelves.
SELECT sku, on_hand, reserved FROM inventory_stock ORDER BY sku;
