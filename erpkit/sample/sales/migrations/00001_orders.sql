-- +goose Up
CREATE TABLE sales_customers (
    customer_id uuid PRIMARY KEY,
    name        text NOT NULL,
    country     text NOT NULL CHECK (length(country) = 2)
);
CREATE TABLE sales_orders (
    order_id    uuid PRIMARY KEY,
    customer_id uuid NOT NULL REFERENCES sales_customers (customer_id),
    placed_on   date NOT NULL,
    currency    text NOT NULL CHECK (length(currency) = 3)
);
CREATE INDEX sales_orders_customer ON sales_orders (customer_id, placed_on);
CREATE TABLE sales_order_lines (
    order_id uuid NOT NULL REFERENCES sales_orders (order_id),
    sku      text NOT NULL REFERENCES catalog_products (sku),
    quantity integer NOT NULL CHECK (quantity > 0),
    price    numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_id, sku)
);

-- +goose Down
DROP TABLE sales_order_lines;
DROP TABLE sales_orders;
DROP TABLE sales_customers;
