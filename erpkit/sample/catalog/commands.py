"""How the catalog carries out its commands."""

from erpkit.events import Context
from erpkit.sample.catalog import sql
from erpkit.sample.catalog.messages import AddProduct, ChangePrice, PriceChanged, ProductAdded


def add_product(command: AddProduct, context: Context) -> None:
    """Add the product, and its category if that is new."""
    sql.add_category(context.connection, command.category)
    sql.add_product(context.connection, command.sku, command.name, command.category, command.price)
    context.publish(ProductAdded(command.sku, command.price))


def change_price(command: ChangePrice, context: Context) -> None:
    """Change the price; a trigger keeps the old one."""
    sql.set_price(context.connection, command.price, command.sku)
    context.publish(PriceChanged(command.sku, command.price))
