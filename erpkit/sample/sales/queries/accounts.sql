-- name: OpenAccount :exec
-- Give a customer a line in the accounts, if there is none. Orders whose events came first are counted.
INSERT INTO sales_accounts (customer_id, name, orders, last_order_on)
SELECT sqlc.arg(customer_id), sqlc.arg(name), count(*), max(o.placed_on)
FROM sales_orders o WHERE o.customer_id = sqlc.arg(customer_id)
ON CONFLICT DO NOTHING;

-- name: CountOrders :exec
-- Count a customer's orders, and keep the day of the last one.
UPDATE sales_accounts
SET orders = (SELECT count(*) FROM sales_orders o WHERE o.customer_id = sqlc.arg(customer_id)),
    last_order_on = greatest(last_order_on, sqlc.arg(placed_on)::date)
WHERE sales_accounts.customer_id = sqlc.arg(customer_id);
