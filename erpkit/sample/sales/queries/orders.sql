-- name: AddCustomer :exec
-- Add a customer.
INSERT INTO sales_customers (customer_id, name, country)
VALUES (sqlc.arg(customer_id), sqlc.arg(name), sqlc.arg(country));

-- name: AddOrder :exec
-- Add an order, without its lines.
INSERT INTO sales_orders (order_id, customer_id, placed_on, currency)
VALUES (sqlc.arg(order_id), sqlc.arg(customer_id), sqlc.arg(placed_on), sqlc.arg(currency));

-- name: AddOrderLines :exec
-- Add the lines of an order; the arrays go together.
INSERT INTO sales_order_lines (order_id, sku, quantity, price)
SELECT sqlc.arg(order_id), unnest(sqlc.arg(skus)::text[]), unnest(sqlc.arg(quantities)::integer[]),
    unnest(sqlc.arg(prices)::numeric[]);

-- name: FindPrices :many
-- Find the catalog's present prices of products.
SELECT sku, price FROM catalog_products WHERE sku = ANY (sqlc.arg(skus)::text[]);

-- name: ListOrders :many
-- List the newest orders with their customers and totals.
SELECT o.order_id, c.name AS customer, o.placed_on, o.currency, coalesce(sum(l.quantity * l.price), 0) AS total
FROM sales_orders o
JOIN sales_customers c ON c.customer_id = o.customer_id
LEFT JOIN sales_order_lines l ON l.order_id = o.order_id
GROUP BY o.order_id, c.name
ORDER BY o.placed_on DESC, o.order_id
LIMIT sqlc.arg(most);
