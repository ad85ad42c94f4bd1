"""Sales: customers and their orders."""

from pathlib import Path

from erpkit.modules import CommandHandler, EventHandler, Module, Tool
from erpkit.sample.sales import commands, events, tools
from erpkit.sample.sales.messages import CustomerRegistered, OrderPlaced, PlaceOrder, RegisterCustomer

module = Module(
    name="sales",
    dependencies=("catalog",),
    migrations=Path(__file__).parent / "migrations",
    queries=Path(__file__).parent / "queries",
    commands=(
        CommandHandler(RegisterCustomer, commands.register_customer),
        CommandHandler(PlaceOrder, commands.place_order),
    ),
    publishes=(CustomerRegistered, OrderPlaced),
    subscribes=(
        EventHandler(
            "sales.on_customer_registered",
            CustomerRegistered,
            events.open_account,
            replayable=True,
            writes=("sales_accounts",),
            any_order=True,
        ),
        EventHandler(
            "sales.on_order_placed",
            OrderPlaced,
            events.count_order,
            replayable=True,
            writes=("sales_accounts",),
            any_order=True,
        ),
    ),
    routes="erpkit.sample.sales.routes:router",
    tools=(Tool(tools.list_orders), Tool(tools.place_order, writes=True)),
)
