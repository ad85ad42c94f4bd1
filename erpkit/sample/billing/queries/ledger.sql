-- name: BookInvoice :exec
-- Enter an invoice in the ledger, or write its line anew. Payments whose events came first are added up.
INSERT INTO billing_ledger (invoice_id, invoiced, issued_on, paid)
SELECT sqlc.arg(invoice_id), sqlc.arg(amount), sqlc.arg(issued_on), coalesce(sum(p.amount), 0)
FROM billing_payments p WHERE p.invoice_id = sqlc.arg(invoice_id)
ON CONFLICT (invoice_id) DO UPDATE SET invoiced = EXCLUDED.invoiced, issued_on = EXCLUDED.issued_on;

-- name: BookPayments :exec
-- Add up what was paid on an invoice.
UPDATE billing_ledger
SET paid = (SELECT sum(p.amount) FROM billing_payments p WHERE p.invoice_id = sqlc.arg(invoice_id))
WHERE billing_ledger.invoice_id = sqlc.arg(invoice_id);

-- name: GetBalance :one
-- Get what an invoice is over and what was paid on it.
SELECT invoiced, paid FROM billing_ledger WHERE invoice_id = sqlc.arg(invoice_id);
