"""What an AI assistant may do with the inventory."""

from erpkit.app import Call
from erpkit.sample.inventory import sql


def stock_levels(call: Call) -> list[sql.InventoryStockRow]:
    """List the stock of every product: pieces on hand, and how many of them are reserved for orders."""
    return sql.list_stock(call.connection)
