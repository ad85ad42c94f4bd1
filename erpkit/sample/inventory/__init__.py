"""Inventory: what is on the shelves, and for whom it is kept."""

from pathlib import Path

from erpkit.modules import CommandHandler, EventHandler, Module, Tool, Upcaster
from erpkit.sample.inventory import commands, events, tools, upcasters
from erpkit.sample.inventory.messages import ReceiveStock, StockReceived, StockReserved, StockShort
from erpkit.sample.sales.messages import OrderPlaced

module = Module(
    name="inventory",
    dependencies=("catalog", "sales"),
    migrations=Path(__file__).parent / "migrations",
    queries=Path(__file__).parent / "queries",
    commands=(CommandHandler(ReceiveStock, commands.receive_stock),),
    publishes=(StockReceived, StockReserved, StockShort),
    upcasters=(Upcaster(StockReceived, 1, upcasters.name_pieces),),
    subscribes=(
        EventHandler("inventory.on_order_placed", OrderPlaced, events.reserve_stock),
        EventHandler(
            "inventory.on_stock_short",
            StockShort,
            events.note_shortage,
            replayable=True,
            writes=("inventory_shortages",),
            any_order=True,
        ),
        EventHandler(
            "inventory.on_stock_received",
            StockReceived,
            events.close_shortages,
            replayable=True,
            writes=("inventory_shortages",),
            any_order=True,
        ),
    ),
    routes="erpkit.sample.inventory.routes:router",
    tools=(Tool(tools.stock_levels),),
)
