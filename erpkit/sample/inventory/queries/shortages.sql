-- name: NoteShortages :exec
-- Note what an order lacks, once an order and product; the two arrays go together. Where the goods came first, it is closed.
INSERT INTO inventory_shortages (order_id, sku, lacking, is_open)
SELECT sqlc.arg(order_id), l.sku, l.lacking, NOT EXISTS (
    SELECT 1 FROM inventory_stock s WHERE s.sku = l.sku AND s.on_hand - s.reserved >= l.lacking)
FROM (SELECT unnest(sqlc.arg(skus)::text[]) AS sku, unnest(sqlc.arg(lacking)::integer[]) AS lacking) l
ON CONFLICT DO NOTHING;

-- name: CloseShortages :exec
-- Close the shortages of a product that the shelf can serve now.
UPDATE inventory_shortages h SET is_open = false FROM inventory_stock s
WHERE h.sku = sqlc.arg(sku) AND s.sku = h.sku AND s.on_hand - s.reserved >= h.lacking;
