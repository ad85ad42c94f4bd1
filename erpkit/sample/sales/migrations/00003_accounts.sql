-- +goose Up
CREATE TABLE sales_accounts (
    customer_id   uuid PRIMARY KEY,
    name          text NOT NULL,
    orders        bigint NOT NULL DEFAULT 0,
    last_order_on date
);

-- +goose Down
DROP TABLE sales_accounts;
