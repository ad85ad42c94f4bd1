-- +goose Up
CREATE TABLE billing_invoices (
    invoice_id uuid PRIMARY KEY,
    order_id   uuid NOT NULL UNIQUE,
    amount     numeric(14, 2) NOT NULL,
    issued_on  date NOT NULL
);
CREATE TABLE billing_payments (
    payment_id bigserial PRIMARY KEY,
    invoice_id uuid NOT NULL REFERENCES billing_invoices (invoice_id),
    amount     numeric(14, 2) NOT NULL CHECK (amount > 0),
    paid_on    date NOT NULL
);
CREATE INDEX billing_payments_invoice ON billing_payments (invoice_id);

-- +goose Down
DROP TABLE billing_payments;
DROP TABLE billing_invoices;
