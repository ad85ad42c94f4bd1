"""How inventory carries out its commands."""

from erpkit.events import Context
from erpkit.sample.inventory import sql
from erpkit.sample.inventory.messages import ReceiveStock, StockReceived


def receive_stock(command: ReceiveStock, context: Context) -> None:
    """Add the goods to what is on hand."""
    sql.receive_stock(context.connection, command.sku, command.quantity)
    context.publish(StockReceived(command.sku, command.quantity))
