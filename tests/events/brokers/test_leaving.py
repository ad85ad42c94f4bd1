"""Tenants that are suspended or dropped while a broker brings and takes their events, and handlers that hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from erpkit.database import Database, Tenant
from erpkit.errors import TenantNotActiveError
from erpkit.events import Consumer, ConsumerGroup, Context, Message, append
from erpkit.events.brokers import ConsumeOptions, MemoryBroker, Route, consume, forward
from erpkit.events.brokers.broker import LIVE
from erpkit.events.brokers.consume import Deliveries
from erpkit.modules import EventHandler, Module, Registry
from erpkit.tenants import drop_tenant, list_tenants, plan_drop, set_status
from tests.events.noting import effects, make_tenant, until
from tests.events.test_leaving_tenants import Noted
from tests.processes import start

HELD = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND mode = 'ExclusiveLock'"


@pytest.fixture
def acme(database: Database) -> Tenant:
    return make_tenant(database, "acme")


def _note(event: Noted, context: Context) -> None:
    """Write the number down; hang on -1."""
    context.connection.execute("INSERT INTO effects (number) VALUES (%s)", [event.number])
    while event.number == -1:
        time.sleep(60)
    if event.number >= 1000:  # slow ones
        time.sleep(0.02)


ERP = Registry.of([Module("notes", publishes=(Noted,), subscribes=(EventHandler("notes.on_noted", Noted, _note),))])
GROUPS = [ConsumerGroup("notes.on_noted", ("notes.Noted",))]


def _append(database: Database, tenant: Tenant, *numbers: int) -> None:
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message("notes.Noted", {"number": number}) for number in numbers])


def _forwarded(database: Database, tenant: Tenant, *numbers: int) -> MemoryBroker:
    """Return a broker that holds the events of these numbers."""
    broker = MemoryBroker()
    broker.declare(GROUPS)
    _append(database, tenant, *numbers)
    forward(database, tenant, broker)
    return broker


def _tenants(database: Database) -> Sequence[Tenant]:
    with database.connection() as connection:
        return list_tenants(connection)


def test_a_batch_from_a_broker_ends_with_the_event_that_is_being_handled_and_its_tenant_can_be_dropped(
    database: Database, acme: Tenant
) -> None:
    broker, stop = _forwarded(database, acme, *range(1000, 1400)), threading.Event()
    other = make_tenant(database, "bluebird")
    thread = threading.Thread(
        target=consume, args=(database, ERP, broker, lambda: _tenants(database), ConsumeOptions(stop))
    )
    thread.start()
    try:
        with database.connection() as connection:
            until(
                lambda: connection.execute(
                    "SELECT 1 FROM pg_stat_activity WHERE state LIKE 'idle in%%' AND query LIKE '%%effects%%'"
                ).fetchone()
            )
            set_status(connection, "acme", "suspended")
            noted = effects(database, acme)
            drop_tenant(database, "acme", plan_drop(connection, acme).id)
        _append(database, other, 7)
        forward(database, other, broker)
        until(lambda: effects(database, other) == [7], 60)
    finally:
        stop.set()
        thread.join()
    assert 0 < len(noted) < 300


def test_what_another_program_publishes_is_not_appended_to_a_tenant_that_was_suspended_meanwhile(
    database: Database, acme: Tenant
) -> None:
    deliveries = Deliveries(database, Consumer(acme, ERP, ERP.event_handlers["notes.on_noted"]))
    with database.connection() as connection:
        set_status(connection, "acme", "suspended")
    with pytest.raises(TenantNotActiveError, match="acme is suspended"):
        deliveries.handle([Message("notes.Noted", {"number": 1})])
    suspended = replace(deliveries, consumer=replace(deliveries.consumer, tenant=replace(acme, status="suspended")))
    assert suspended.leave([Message("notes.Noted", {"number": 1})]) == 1  # it waits in the log


def _serve(conninfo: str) -> None:
    database = Database(conninfo, "test")
    broker = _forwarded(database, _tenants(database)[0], 1, -1)
    consume(database, ERP, broker, lambda: _tenants(database), ConsumeOptions(limit=2))


def test_a_handler_that_hangs_on_what_a_broker_brought_ends_its_process(
    database: Database, acme: Tenant, tmp_path: Path
) -> None:
    process = start(_serve, database.conninfo, stderr=tmp_path / "stderr")
    process.join(60)
    assert process.exitcode == 1
    assert (
        "notes.on_noted has had the event at offset 2 of tenant acme in flight for more than 2 s"
        in (tmp_path / "stderr").read_text()
    )


def test_nothing_of_a_tenant_that_is_not_active_is_forwarded(database: Database, acme: Tenant) -> None:
    _append(database, acme, 1)
    with database.connection() as connection:
        set_status(connection, "acme", "suspended")
    broker = MemoryBroker()
    broker.declare(GROUPS)
    with pytest.raises(TenantNotActiveError, match="acme is suspended"):
        forward(database, acme, broker)
    with database.connection() as connection:
        forward(database, set_status(connection, "acme", "active"), broker)


class _Slow(MemoryBroker):
    """Takes its time for the first messages: until somebody waits for the tenant."""

    def __init__(self, database: Database, suspend: threading.Thread) -> None:
        super().__init__()
        self._database = database
        self._suspend = suspend
        self.taken = 0

    def publish(self, tenant: str, messages: Sequence[Message], route: Route = LIVE) -> set[UUID]:
        self.taken += len(messages)
        if self._suspend.ident is None:
            self._suspend.start()
            with self._database.connection() as connection:
                until(lambda: connection.execute(HELD).fetchone(), 60)
            time.sleep(0.21)  # a batch looks five times a second
        return super().publish(tenant, messages, route)


def test_a_batch_that_is_forwarded_ends_early_where_somebody_waits_for_the_tenant(
    database: Database, acme: Tenant
) -> None:
    def suspend() -> None:
        with database.connection() as connection:
            set_status(connection, "acme", "suspended")

    _append(database, acme, *range(1, 451))
    waiting = threading.Thread(target=suspend)
    broker = _Slow(database, waiting)
    done = forward(database, acme, broker)
    waiting.join()
    assert (done.events, done.offset, broker.taken) == (100, 100, 100)
    with database.connection() as connection:
        tenant = set_status(connection, "acme", "active")
    assert forward(database, tenant, broker).events == 350
