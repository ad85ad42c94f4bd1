"""What the catalog does when something happened."""

from erpkit.events import Context
from erpkit.sample.catalog.messages import PriceChanged, ProductAdded


def list_price(event: ProductAdded | PriceChanged, context: Context) -> None:
    """Keep the price list, a projection: the newest event of a product wins, so it may be replayed."""
    context.connection.execute(
        "INSERT INTO catalog_price_list (sku, price, as_of_offset) VALUES (%s, %s, %s) ON CONFLICT (sku) DO UPDATE "
        "SET price = EXCLUDED.price, as_of_offset = EXCLUDED.as_of_offset "
        "WHERE catalog_price_list.as_of_offset <= EXCLUDED.as_of_offset",
        [event.sku, event.price, context.message.offset],
    )
