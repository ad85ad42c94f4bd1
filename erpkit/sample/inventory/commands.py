"""How inventory carries out its commands."""

from erpkit.events import Context
from erpkit.sample.inventory.messages import ReceiveStock, StockReceived


def receive_stock(command: ReceiveStock, context: Context) -> None:
    """Add the goods to what is on hand."""
    context.connection.execute(
        "INSERT INTO inventory_stock (sku, on_hand) VALUES (%s, %s) "
        "ON CONFLICT (sku) DO UPDATE SET on_hand = inventory_stock.on_hand + EXCLUDED.on_hand",
        [command.sku, command.quantity],
    )
    context.publish(StockReceived(command.sku, command.quantity))
