"""How the catalog carries out its commands."""

from erpkit.events import Context
from erpkit.sample.catalog.messages import AddProduct, ChangePrice, PriceChanged, ProductAdded


def add_product(command: AddProduct, context: Context) -> None:
    """Add the product, and its category if that is new."""
    context.connection.execute(
        "INSERT INTO catalog_categories (name) VALUES (%s) ON CONFLICT DO NOTHING", [command.category]
    )
    context.connection.execute(
        "INSERT INTO catalog_products (sku, name, category, price) VALUES (%s, %s, %s, %s)",
        [command.sku, command.name, command.category, command.price],
    )
    context.publish(ProductAdded(command.sku, command.price))


def change_price(command: ChangePrice, context: Context) -> None:
    """Change the price; a trigger keeps the old one."""
    context.connection.execute("UPDATE catalog_products SET price = %s WHERE sku = %s", [command.price, command.sku])
    context.publish(PriceChanged(command.sku, command.price))
