"""The queries of catalog, typed; generated from queries/*.sql by `erpkit queries generate`: do not edit."""

from decimal import Decimal
from typing import Any, Final

from psycopg import Connection

ADD_CATEGORY: Final = """
INSERT INTO catalog_categories (name) VALUES (%(name)s) ON CONFLICT DO NOTHING
"""

ADD_PRODUCT: Final = """
INSERT INTO catalog_products (sku, name, category, price)
VALUES (%(sku)s, %(name)s, %(category)s, %(price)s)
"""

SET_PRICE: Final = """
UPDATE catalog_products SET price = %(price)s WHERE sku = %(sku)s
"""

LIST_PRICE: Final = """
INSERT INTO catalog_price_list (sku, price, as_of_offset)
VALUES (%(sku)s, %(price)s, %(as_of_offset)s)
ON CONFLICT (sku) DO UPDATE SET price = EXCLUDED.price, as_of_offset = EXCLUDED.as_of_offset
WHERE catalog_price_list.as_of_offset <= EXCLUDED.as_of_offset
"""


def add_category(connection: Connection[Any], name: str) -> None:
    """Add a category, if it is new."""
    connection.execute(ADD_CATEGORY, {"name": name})


def add_product(connection: Connection[Any], sku: str, name: str, category: str, price: Decimal) -> None:
    """Add a product."""
    connection.execute(ADD_PRODUCT, {"sku": sku, "name": name, "category": category, "price": price})


def set_price(connection: Connection[Any], price: Decimal, sku: str) -> None:
    """Give a product another price."""
    connection.execute(SET_PRICE, {"price": price, "sku": sku})


def list_price(connection: Connection[Any], sku: str, price: Decimal, as_of_offset: int | None) -> None:
    """Keep the newest price of a product in the price list."""
    connection.execute(LIST_PRICE, {"sku": sku, "price": price, "as_of_offset": as_of_offset})
