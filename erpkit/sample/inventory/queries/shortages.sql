-- name: NoteShortages :exec
-- Note what an order lacks, once an order and product; the two arrays go together.
INSERT INTO inventory_shortages (order_id, sku, lacking)
SELECT sqlc.arg(order_id), unnest(sqlc.arg(skus)::text[]), unnest(sqlc.arg(lacking)::integer[])
ON CONFLICT DO NOTHING;

-- name: CloseShortages :exec
-- Close the shortages of a product that the shelf can serve now.
UPDATE inventory_shortages h SET is_open = false FROM inventory_stock s
WHERE h.sku = sqlc.arg(sku) AND s.sku = h.sku AND s.on_hand - s.reserved >= h.lacking;
