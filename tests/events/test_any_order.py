"""The sample's projections that declare `any_order`: each comes out the same in whatever order its events come."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from itertools import permutations
from uuid import UUID, uuid5

import pytest

from erpkit.database import Connection, Database, Tenant
from erpkit.events import CommandBus, Consumer, Message, dispatch, handle, read_events
from erpkit.migrations import Migration
from erpkit.modules import Registry
from erpkit.sample.billing.messages import ReceivePayment
from erpkit.sample.catalog.messages import AddProduct, ChangePrice
from erpkit.sample.inventory.messages import ReceiveStock
from erpkit.sample.sales.messages import Line, PlaceOrder, RegisterCustomer
from erpkit.tenants import create_tenant

TABLES = ("billing_ledger", "catalog_price_list", "inventory_shortages", "sales_accounts")
CUSTOMER, SERVED, SHORT, SHORTER = (UUID(int=number) for number in range(1, 5))


@pytest.fixture(scope="module")
def acme(shared_database: Database, migrations: tuple[Migration, ...], registry: Registry) -> Tenant:
    """A tenant with a few orders: one that was served, invoiced and paid in parts, and two that goods were lacking for."""
    tenant = create_tenant(shared_database, migrations, "any_order")
    invoice, day = uuid5(SERVED, "invoice"), date(2026, 1, 31)
    for command in (
        AddProduct("bolt", "Bolt", "small parts", Decimal(2)),
        ChangePrice("bolt", Decimal(3)),
        ChangePrice("bolt", Decimal(4)),
        ReceiveStock("bolt", 10),
        RegisterCustomer(CUSTOMER, "Ann", "DE"),
        PlaceOrder(SERVED, CUSTOMER, day, (Line("bolt", 10),)),
        PlaceOrder(SHORT, CUSTOMER, day.replace(day=1), (Line("bolt", 4),)),
        PlaceOrder(SHORTER, CUSTOMER, day.replace(day=2), (Line("bolt", 40),)),
        ReceiveStock("bolt", 5),
        ReceivePayment(invoice, Decimal(30), day),
        ReceivePayment(invoice, Decimal(9), day),
        ReceivePayment(invoice, Decimal(1), day),
    ):
        CommandBus(shared_database, registry).send(tenant, command)
        dispatch(shared_database, tenant, registry)
    return tenant


def test_the_projections_that_are_tried_are_all_that_declare_it(registry: Registry) -> None:
    declared = {table for handler in registry.event_handlers.values() if handler.any_order for table in handler.writes}
    assert declared == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_projection_has_the_same_rows_after_each_order_of_its_events(
    shared_database: Database, acme: Tenant, registry: Registry, table: str
) -> None:
    consumers = {
        topic: Consumer(acme, registry, handler)
        for handler in registry.event_handlers.values()
        if table in handler.writes
        for topic in registry.topics_of(handler)
    }
    with shared_database.tenant_transaction(acme, write=True) as connection:
        events = [message for topic in consumers for message in read_events(connection, topic, 0, 100)]
        kept = _rows(connection, table)
        assert kept
        assert 3 <= len(events) <= 5
        assert len({message.topic for message in events}) == 2
        for order in permutations(events):
            assert _build(connection, consumers, table, order) == kept, [one.offset for one in order]


def _build(
    connection: Connection, consumers: dict[str, Consumer], table: str, events: tuple[Message, ...]
) -> list[tuple[object, ...]]:
    connection.execute(f"DELETE FROM {table}".encode())
    for message in events:
        handle(connection, consumers[message.topic], message)
    return _rows(connection, table)


def _rows(connection: Connection, table: str) -> list[tuple[object, ...]]:
    return connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2".encode()).fetchall()
