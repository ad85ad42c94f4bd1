-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION sales_order_total(wanted uuid) RETURNS numeric LANGUAGE plpgsql STABLE AS $$
DECLARE
    total numeric;
BEGIN
    SELECT sum(quantity * price) INTO total FROM sales_order_lines WHERE order_id = wanted;
    RETURN coalesce(total, 0);
END;
$$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION sales_order_total(uuid);
