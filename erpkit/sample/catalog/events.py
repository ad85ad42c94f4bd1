"""What the catalog does when something happened."""

from erpkit.events import Context
from erpkit.sample.catalog import sql
from erpkit.sample.catalog.messages import PriceChanged, ProductAdded


def list_price(event: ProductAdded | PriceChanged, context: Context) -> None:
    """Keep the price list, a projection: the newest event of a product wins, so it may be replayed."""
    sql.list_price(context.connection, event.sku, event.price, context.message.offset)
