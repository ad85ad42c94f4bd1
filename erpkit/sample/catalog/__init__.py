"""Catalog: what is sold, and for how much."""

from pathlib import Path

from erpkit.modules import CommandHandler, EventHandler, Module
from erpkit.sample.catalog import commands, events
from erpkit.sample.catalog.messages import AddProduct, ChangePrice, PriceChanged, ProductAdded

module = Module(
    name="catalog",
    migrations=Path(__file__).parent / "migrations",
    queries=Path(__file__).parent / "queries",
    commands=(CommandHandler(AddProduct, commands.add_product), CommandHandler(ChangePrice, commands.change_price)),
    publishes=(ProductAdded, PriceChanged),
    subscribes=(
        EventHandler(
            "catalog.on_product_added",
            ProductAdded,
            events.list_price,
            replayable=True,
            writes=("catalog_price_list",),
            any_order=True,
        ),
        EventHandler(
            "catalog.on_price_changed",
            PriceChanged,
            events.list_price,
            replayable=True,
            writes=("catalog_price_list",),
            any_order=True,
        ),
    ),
)
