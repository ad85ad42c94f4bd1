-- name: HasInvoice :one
-- Whether there is an invoice of this id.
SELECT EXISTS (SELECT 1 FROM billing_invoices WHERE invoice_id = sqlc.arg(invoice_id));

-- name: ListInvoices :many
-- List all invoices, the oldest first.
SELECT invoice_id, amount, issued_on FROM billing_invoices ORDER BY issued_on, invoice_id;

-- name: InEuros :one
-- Convert an amount at the present rate; NULL without a rate for its currency.
SELECT billing_in_euros(sqlc.arg(amount), sqlc.arg(currency));

-- name: AddInvoice :exec
-- Write an invoice down.
INSERT INTO billing_invoices (invoice_id, order_id, amount, issued_on)
VALUES (sqlc.arg(invoice_id), sqlc.arg(order_id), sqlc.arg(amount), sqlc.arg(issued_on));

-- name: AddPayment :exec
-- Write a payment down.
INSERT INTO billing_payments (invoice_id, amount, paid_on)
VALUES (sqlc.arg(invoice_id), sqlc.arg(amount), sqlc.arg(paid_on));
