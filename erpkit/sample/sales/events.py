"""What sales does when something happened."""

from erpkit.events import Context
from erpkit.sample.sales.messages import CustomerRegistered, OrderPlaced


def open_account(event: CustomerRegistered, context: Context) -> None:
    """Give the customer a line in the accounts, a projection of what each one ordered."""
    context.connection.execute(
        "INSERT INTO sales_accounts (customer_id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
        [event.customer_id, event.name],
    )


def count_order(event: OrderPlaced, context: Context) -> None:
    """Count the customer's orders anew, so that a replay changes nothing."""
    context.connection.execute(
        "UPDATE sales_accounts SET orders = (SELECT count(*) FROM sales_orders WHERE customer_id = %s), "
        "last_order_on = greatest(last_order_on, %s) WHERE customer_id = %s",
        [event.customer_id, event.placed_on, event.customer_id],
    )
