-- +goose Up
CREATE TABLE bonus_points (
    point_id   bigserial PRIMARY KEY,
    invoice_id uuid NOT NULL REFERENCES billing_invoices (invoice_id),
    points     integer NOT NULL
);
CREATE INDEX bonus_points_invoice ON bonus_points (invoice_id);

-- +goose Down
DROP TABLE bonus_points;
