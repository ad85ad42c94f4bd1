"""What an AI assistant may do with sales."""

from datetime import date
from typing import Annotated
from uuid import UUID, uuid4

from erpkit.app import Call
from erpkit.sample.sales import sql
from erpkit.sample.sales.messages import Line, PlaceOrder


def list_orders(call: Call, limit: Annotated[int, "How many orders at most."] = 20) -> list[sql.ListOrdersRow]:
    """List the newest orders with their customers and totals, `limit` of them."""
    return sql.list_orders(call.connection, limit)


def place_order(
    call: Call,
    customer_id: Annotated[UUID, "The customer who orders."],
    lines: Annotated[list[Line], "What is ordered: product and quantity, a line each."],
    currency: Annotated[str, "The order's currency, an ISO 4217 code."] = "EUR",
) -> UUID:
    """Place an order at the catalog's present prices, and return its id; each product may be in one line only."""
    order_id = uuid4()
    call.send(PlaceOrder(order_id, customer_id, date.today(), tuple(lines), currency))
    return order_id
