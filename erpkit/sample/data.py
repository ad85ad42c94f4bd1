"""Sample data, made by doing business: the same seed sends the same commands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from uuid import UUID

from erpkit.database import Database, Tenant
from erpkit.events import CommandBus, dispatch
from erpkit.modules import Registry
from erpkit.sample.billing import sql
from erpkit.sample.billing.messages import ReceivePayment
from erpkit.sample.catalog.messages import AddProduct, ChangePrice
from erpkit.sample.inventory.messages import ReceiveStock
from erpkit.sample.sales.messages import Line, PlaceOrder, RegisterCustomer

__all__ = ["Size", "do_business", "send_orders"]

_THINGS = (
    "Bolt",
    "Bracket",
    "Cable",
    "Clamp",
    "Filter",
    "Gasket",
    "Hinge",
    "Motor",
    "Pump",
    "Relay",
    "Sensor",
    "Valve",
)
_KINDS = {"A": "Fittings", "B": "Drives", "C": "Electrics"}
_FIRMS = (
    "Arno",
    "Berg",
    "Celik",
    "Duval",
    "Egger",
    "Fonseca",
    "Grant",
    "Huber",
    "Ivanov",
    "Janssen",
    "Keller",
    "Larsen",
)
_COUNTRIES = ("AT", "DE", "FR", "GB", "NL", "US")
_COMMANDS_A_TRANSACTION = 50


@dataclass(frozen=True)
class Size:
    """How much business a tenant does."""

    products: int = 12
    customers: int = 8
    orders: int = 40


def do_business(database: Database, registry: Registry, tenant: Tenant, seed: int, size: Size, until: date) -> None:
    """Send a tenant the commands of some weeks of business that end at `until`, and let its handlers react.

    About one order in eight finds too little stock; three in four invoices are paid.
    """
    random = Random(seed)
    bus = CommandBus(database, registry)
    for commands in (_opening(random, size), _orders(random, size, until)):
        _send(bus, tenant, random, list(commands))
        dispatch(database, tenant, registry)
    _send(bus, tenant, random, _payments(database, tenant, random))
    dispatch(database, tenant, registry)


def send_orders(database: Database, registry: Registry, tenant: Tenant, seed: int, size: Size, until: date) -> None:
    """Send the orders of some weeks alone, for products and customers that are there; no handler is asked to react."""
    random = Random(f"{tenant.slug} {seed}")
    _send(CommandBus(database, registry), tenant, random, list(_orders(random, size, until)))


def _send(bus: CommandBus, tenant: Tenant, random: Random, commands: list[object]) -> None:
    for start in range(0, len(commands), _COMMANDS_A_TRANSACTION):
        batch = commands[start : start + _COMMANDS_A_TRANSACTION]
        bus.send_all(tenant, batch, [_uuid(random) for _ in batch])


def _opening(random: Random, size: Size) -> Iterator[object]:
    for number in range(size.products):
        sku, price = _sku(number), Decimal(random.randrange(500, 25000)) / 100
        yield AddProduct(sku, f"{_THINGS[number % len(_THINGS)]} {number + 1}", _KINDS[sku[0]], price)
        if random.random() < 0.25:
            yield ChangePrice(sku, (price * Decimal("1.05")).quantize(Decimal("0.01")))
        yield ReceiveStock(sku, random.randrange(size.orders, 2 * size.orders + 2))
    for number in range(size.customers):
        yield RegisterCustomer(
            _customer(number), f"{_FIRMS[number % len(_FIRMS)]} {number + 1}", random.choice(_COUNTRIES)
        )


def _orders(random: Random, size: Size, until: date) -> Iterator[object]:
    for number in range(size.orders):
        skus = random.sample(range(size.products), k=min(size.products, random.randrange(1, 5)))
        lines = tuple(Line(_sku(sku), random.randrange(1, 9)) for sku in sorted(skus))
        day = until - timedelta(days=(size.orders - number) * 60 // size.orders)
        currency = random.choices(("EUR", "USD", "GBP"), weights=(8, 1, 1))[0]
        yield PlaceOrder(_uuid(random), _customer(random.randrange(size.customers)), day, lines, currency)


def _payments(database: Database, tenant: Tenant, random: Random) -> list[object]:
    with database.tenant_transaction(tenant) as connection:
        invoices = sql.list_invoices(connection)
    return [
        ReceivePayment(row.invoice_id, row.amount, row.issued_on + timedelta(days=random.randrange(1, 20)))
        for row in invoices
        if random.random() < 0.75
    ]


def _sku(number: int) -> str:
    return f"{'ABC'[number % 3]}-{number + 1:03d}"


def _customer(number: int) -> UUID:
    return UUID(int=number + 1)


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)
