"""What inventory does when something happened."""

from erpkit.events import Context
from erpkit.sample.inventory.messages import StockReceived, StockReserved, StockShort
from erpkit.sample.sales.messages import OrderPlaced


def reserve_stock(event: OrderPlaced, context: Context) -> None:
    """Keep the whole order on the shelf for its customer, or nothing of it, and tell which."""
    wanted = {line.sku: line.quantity for line in event.lines}
    rows = context.connection.execute(
        "SELECT sku, on_hand - reserved FROM inventory_stock WHERE sku = ANY(%s) ORDER BY sku FOR UPDATE",
        [list(wanted)],
    )
    available: dict[str, int] = dict(rows.fetchall())
    lacking = {sku: n - available.get(sku, 0) for sku, n in wanted.items() if n > available.get(sku, 0)}
    if lacking:
        context.publish(StockShort(event.order_id, lacking))
        return
    with context.connection.cursor() as cursor:
        cursor.executemany(
            "SELECT inventory_reserve(%s, %s, %s)", [(event.order_id, sku, n) for sku, n in wanted.items()]
        )
    context.publish(StockReserved(event.order_id, event.customer_id, event.placed_on, event.total, event.currency))


def note_shortage(event: StockShort, context: Context) -> None:
    """Put what is lacking on the list to order from suppliers, once an order and product."""
    with context.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO inventory_shortages (order_id, sku, lacking) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [(event.order_id, sku, n) for sku, n in event.lacking.items()],
        )


def close_shortages(event: StockReceived, context: Context) -> None:
    """Strike off the list what the shelf can serve now."""
    context.connection.execute(
        "UPDATE inventory_shortages h SET is_open = false FROM inventory_stock s "
        "WHERE h.sku = %s AND s.sku = h.sku AND s.on_hand - s.reserved >= h.lacking",
        [event.sku],
    )
