"""The queries of sales, typed; generated from queries/*.sql by `erpkit queries generate`: do not edit."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import tuple_row

OPEN_ACCOUNT: Final = """
INSERT INTO sales_accounts (customer_id, name, orders, last_order_on)
SELECT %(customer_id)s, %(name)s, count(*), max(o.placed_on)
FROM sales_orders o WHERE o.customer_id = %(customer_id)s
ON CONFLICT DO NOTHING
"""

COUNT_ORDERS: Final = """
UPDATE sales_accounts
SET orders = (SELECT count(*) FROM sales_orders o WHERE o.customer_id = %(customer_id)s),
    last_order_on = greatest(last_order_on, %(placed_on)s::date)
WHERE sales_accounts.customer_id = %(customer_id)s
"""

ADD_CUSTOMER: Final = """
INSERT INTO sales_customers (customer_id, name, country)
VALUES (%(customer_id)s, %(name)s, %(country)s)
"""

ADD_ORDER: Final = """
INSERT INTO sales_orders (order_id, customer_id, placed_on, currency)
VALUES (%(order_id)s, %(customer_id)s, %(placed_on)s, %(currency)s)
"""

ADD_ORDER_LINES: Final = """
INSERT INTO sales_order_lines (order_id, sku, quantity, price)
SELECT %(order_id)s, unnest(%(skus)s::text[]), unnest(%(quantities)s::integer[]),
    unnest(%(prices)s::numeric[])
"""

FIND_PRICES: Final = """
SELECT sku, price FROM catalog_products WHERE sku = ANY (%(skus)s::text[])
"""

LIST_ORDERS: Final = """
SELECT o.order_id, c.name AS customer, o.placed_on, o.currency, coalesce(sum(l.quantity * l.price),
  0) AS total
FROM sales_orders o
JOIN sales_customers c ON c.customer_id = o.customer_id
LEFT JOIN sales_order_lines l ON l.order_id = o.order_id
GROUP BY o.order_id, c.name
ORDER BY o.placed_on DESC, o.order_id
LIMIT %(most)s
"""


@dataclass(frozen=True)
class FindPricesRow:
    """A row of `find_prices`."""

    sku: str
    price: Decimal


@dataclass(frozen=True)
class ListOrdersRow:
    """A row of `list_orders`."""

    order_id: UUID
    customer: str
    placed_on: date
    currency: str
    total: Decimal


def open_account(connection: Connection[Any], customer_id: UUID, name: str) -> None:
    """Give a customer a line in the accounts, if there is none. Orders whose events came first are counted."""
    connection.execute(OPEN_ACCOUNT, {"customer_id": customer_id, "name": name})


def count_orders(connection: Connection[Any], customer_id: UUID, placed_on: date) -> None:
    """Count a customer's orders, and keep the day of the last one."""
    connection.execute(COUNT_ORDERS, {"customer_id": customer_id, "placed_on": placed_on})


def add_customer(connection: Connection[Any], customer_id: UUID, name: str, country: str) -> None:
    """Add a customer."""
    connection.execute(ADD_CUSTOMER, {"customer_id": customer_id, "name": name, "country": country})


def add_order(connection: Connection[Any], order_id: UUID, customer_id: UUID, placed_on: date, currency: str) -> None:
    """Add an order, without its lines."""
    connection.execute(
        ADD_ORDER, {"order_id": order_id, "customer_id": customer_id, "placed_on": placed_on, "currency": currency}
    )


def add_order_lines(
    connection: Connection[Any], order_id: UUID, skus: list[str], quantities: list[int], prices: list[Decimal]
) -> None:
    """Add the lines of an order; the arrays go together."""
    connection.execute(
        ADD_ORDER_LINES, {"order_id": order_id, "skus": skus, "quantities": quantities, "prices": prices}
    )


def find_prices(connection: Connection[Any], skus: list[str]) -> list[FindPricesRow]:
    """Find the catalog's present prices of products."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(FIND_PRICES, {"skus": skus})
    return [FindPricesRow(*row) for row in cursor]


def list_orders(connection: Connection[Any], most: int) -> list[ListOrdersRow]:
    """List the newest orders with their customers and totals."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(LIST_ORDERS, {"most": most})
    return [ListOrdersRow(*row) for row in cursor]
