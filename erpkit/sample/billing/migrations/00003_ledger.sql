-- +goose Up
CREATE TABLE billing_ledger (
    invoice_id uuid PRIMARY KEY,
    invoiced   numeric(14, 2) NOT NULL,
    paid       numeric(14, 2) NOT NULL DEFAULT 0,
    issued_on  date NOT NULL
);

-- +goose Down
DROP TABLE billing_ledger;
