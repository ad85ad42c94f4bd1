"""What sales does when something happened."""

from erpkit.events import Context
from erpkit.sample.sales import sql
from erpkit.sample.sales.messages import CustomerRegistered, OrderPlaced


def open_account(event: CustomerRegistered, context: Context) -> None:
    """Give the customer a line in the accounts, a projection of what each one ordered."""
    sql.open_account(context.connection, event.customer_id, event.name)


def count_order(event: OrderPlaced, context: Context) -> None:
    """Count the customer's orders anew, so that a replay changes nothing."""
    sql.count_orders(context.connection, event.customer_id, event.placed_on)
