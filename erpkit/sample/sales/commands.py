"""How sales carries out its commands."""

from decimal import Decimal

from erpkit.errors import ErpkitError
from erpkit.events import Context
from erpkit.sample.sales.messages import CustomerRegistered, OrderPlaced, PlaceOrder, RegisterCustomer


def register_customer(command: RegisterCustomer, context: Context) -> None:
    """Add the customer."""
    context.connection.execute(
        "INSERT INTO sales_customers (customer_id, name, country) VALUES (%s, %s, %s)",
        [command.customer_id, command.name, command.country],
    )
    context.publish(CustomerRegistered(command.customer_id, command.name))


def place_order(command: PlaceOrder, context: Context) -> None:
    """Write the order with the catalog's present prices; a product that is not offered refuses it."""
    prices = _prices(command, context)
    total = sum((prices[line.sku] * line.quantity for line in command.lines), Decimal())
    context.connection.execute(
        "INSERT INTO sales_orders (order_id, customer_id, placed_on, currency) VALUES (%s, %s, %s, %s)",
        [command.order_id, command.customer_id, command.placed_on, command.currency],
    )
    with context.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO sales_order_lines (order_id, sku, quantity, price) VALUES (%s, %s, %s, %s)",
            [(command.order_id, line.sku, line.quantity, prices[line.sku]) for line in command.lines],
        )
    context.publish(
        OrderPlaced(command.order_id, command.customer_id, command.placed_on, command.lines, total, command.currency)
    )


def _prices(command: PlaceOrder, context: Context) -> dict[str, Decimal]:
    skus = [line.sku for line in command.lines]
    prices: dict[str, Decimal] = dict(
        context.connection.execute("SELECT sku, price FROM catalog_products WHERE sku = ANY(%s)", [skus]).fetchall()
    )
    if unknown := sorted(set(skus) - set(prices)):
        raise ErpkitError(f"order {command.order_id}: no product {', '.join(unknown)}")
    return prices
