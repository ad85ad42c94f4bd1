"""How sales carries out its commands."""

from decimal import Decimal

from erpkit.errors import ErpkitError
from erpkit.events import Context
from erpkit.sample.sales import sql
from erpkit.sample.sales.messages import CustomerRegistered, OrderPlaced, PlaceOrder, RegisterCustomer


def register_customer(command: RegisterCustomer, context: Context) -> None:
    """Add the customer."""
    sql.add_customer(context.connection, command.customer_id, command.name, command.country)
    context.publish(CustomerRegistered(command.customer_id, command.name))


def place_order(command: PlaceOrder, context: Context) -> None:
    """Write the order with the catalog's present prices; a product that is not offered refuses it."""
    prices = _prices(command, context)
    total = sum((prices[line.sku] * line.quantity for line in command.lines), Decimal())
    sql.add_order(context.connection, command.order_id, command.customer_id, command.placed_on, command.currency)
    sql.add_order_lines(
        context.connection,
        command.order_id,
        skus=[line.sku for line in command.lines],
        quantities=[line.quantity for line in command.lines],
        prices=[prices[line.sku] for line in command.lines],
    )
    context.publish(
        OrderPlaced(command.order_id, command.customer_id, command.placed_on, command.lines, total, command.currency)
    )


def _prices(command: PlaceOrder, context: Context) -> dict[str, Decimal]:
    skus = [line.sku for line in command.lines]
    prices = {row.sku: row.price for row in sql.find_prices(context.connection, skus)}
    if unknown := sorted(set(skus) - set(prices)):
        raise ErpkitError(f"order {command.order_id}: no product {', '.join(unknown)}")
    return prices
