"""The queries of inventory, typed; generated from queries/*.sql by `erpkit queries generate`: do not edit."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from psycopg import Connection
from psycopg.rows import tuple_row

NOTE_SHORTAGES: Final = """
INSERT INTO inventory_shortages (order_id, sku, lacking, is_open)
SELECT %(order_id)s, l.sku, l.lacking, NOT EXISTS (
    SELECT 1 FROM inventory_stock s WHERE s.sku = l.sku AND s.on_hand - s.reserved >= l.lacking)
FROM (SELECT unnest(%(skus)s::text[]) AS sku, unnest(%(lacking)s::integer[]) AS lacking) l
ON CONFLICT DO NOTHING
"""

CLOSE_SHORTAGES: Final = """
UPDATE inventory_shortages h SET is_open = false FROM inventory_stock s
WHERE h.sku = %(sku)s AND s.sku = h.sku AND s.on_hand - s.reserved >= h.lacking
"""

RECEIVE_STOCK: Final = """
INSERT INTO inventory_stock (sku, on_hand) VALUES (%(sku)s, %(quantity)s)
ON CONFLICT (sku) DO UPDATE SET on_hand = inventory_stock.on_hand + EXCLUDED.on_hand
"""

LOCK_STOCK: Final = """
SELECT sku, on_hand, reserved FROM inventory_stock WHERE sku = ANY (%(skus)s::text[]) ORDER BY sku
  FOR UPDATE
"""

RESERVE: Final = """
SELECT inventory_reserve(%(order_id)s, unnest(%(skus)s::text[]), unnest(%(quantities)s::integer[]))
"""

LIST_STOCK: Final = """
SELECT sku, on_hand, reserved FROM inventory_stock ORDER BY sku
"""


@dataclass(frozen=True)
class InventoryStockRow:
    """A row of inventory_stock."""

    sku: str
    on_hand: int
    reserved: int


def note_shortages(connection: Connection[Any], order_id: UUID, skus: list[str], lacking: list[int]) -> None:
    """Note what an order lacks, once an order and product; the two arrays go together. Where the goods came first, it is closed."""
    connection.execute(NOTE_SHORTAGES, {"order_id": order_id, "skus": skus, "lacking": lacking})


def close_shortages(connection: Connection[Any], sku: str) -> None:
    """Close the shortages of a product that the shelf can serve now."""
    connection.execute(CLOSE_SHORTAGES, {"sku": sku})


def receive_stock(connection: Connection[Any], sku: str, quantity: int) -> None:
    """Add goods to what is on hand."""
    connection.execute(RECEIVE_STOCK, {"sku": sku, "quantity": quantity})


def lock_stock(connection: Connection[Any], skus: list[str]) -> list[InventoryStockRow]:
    """Keep others off these products' stock until the transaction ends, and return it."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(LOCK_STOCK, {"skus": skus})
    return [InventoryStockRow(*row) for row in cursor]


def reserve(connection: Connection[Any], order_id: UUID, skus: list[str], quantities: list[int]) -> None:
    """Keep so many of each product for an order; the two arrays go together."""
    connection.execute(RESERVE, {"order_id": order_id, "skus": skus, "quantities": quantities})


def list_stock(connection: Connection[Any]) -> list[InventoryStockRow]:
    """List what is on the shelves."""
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(LIST_STOCK, {})
    return [InventoryStockRow(*row) for row in cursor]
