-- +goose Up
ALTER TABLE billing_invoices ADD COLUMN due_on date;
UPDATE billing_invoices SET due_on = issued_on + 30;
CREATE INDEX billing_invoices_due ON billing_invoices (due_on);

-- +goose Down
DROP INDEX billing_invoices_due;
ALTER TABLE billing_invoices DROP COLUMN due_on;
