"""What inventory does when something happened."""

from erpkit.events import Context
from erpkit.sample.inventory import sql
from erpkit.sample.inventory.messages import StockReceived, StockReserved, StockShort
from erpkit.sample.sales.messages import OrderPlaced


def reserve_stock(event: OrderPlaced, context: Context) -> None:
    """Keep the whole order on the shelf for its customer, or nothing of it, and tell which."""
    wanted = {line.sku: line.quantity for line in event.lines}
    stock = sql.lock_stock(context.connection, list(wanted))
    available = {row.sku: row.on_hand - row.reserved for row in stock}
    lacking = {sku: n - available.get(sku, 0) for sku, n in wanted.items() if n > available.get(sku, 0)}
    if lacking:
        context.publish(StockShort(event.order_id, lacking))
        return
    sql.reserve(context.connection, event.order_id, list(wanted), list(wanted.values()))
    context.publish(StockReserved(event.order_id, event.customer_id, event.placed_on, event.total, event.currency))


def note_shortage(event: StockShort, context: Context) -> None:
    """Put what is lacking on the list to order from suppliers, once an order and product."""
    sql.note_shortages(context.connection, event.order_id, list(event.lacking), list(event.lacking.values()))


def close_shortages(event: StockReceived, context: Context) -> None:
    """Strike off the list what the shelf can serve now."""
    sql.close_shortages(context.connection, event.sku)
