-- +goose Up
CREATE TABLE billing_exchange_rates (
    currency text PRIMARY KEY CHECK (length(currency) = 3),
    euros    numeric(12, 6) NOT NULL CHECK (euros > 0)
);
INSERT INTO billing_exchange_rates (currency, euros) VALUES ('EUR', 1), ('USD', 0.86), ('GBP', 1.14);

-- +goose StatementBegin
CREATE FUNCTION billing_in_euros(amount numeric, in_currency text) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT round(amount * euros, 2) FROM billing_exchange_rates WHERE currency = in_currency);
END;
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION billing_in_euros(numeric, text);
DROP TABLE billing_exchange_rates;
