"""Handlers in their middleware, on a real tenant: attempts, savepoints, time limits, dead letters; and queries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest

from erpkit.config import Settings
from erpkit.database import Connection, Database, Tenant
from erpkit.errors import DatabaseError, ErpkitError, ModuleError
from erpkit.events import (
    CommandBus,
    Consumer,
    Context,
    HandlerTimeoutError,
    Message,
    QueryBus,
    append,
    dispatch,
    handle,
    isolated,
    list_dead_letters,
    overdue,
    read_events,
)
from erpkit.migrations import Migration, read_migrations
from erpkit.modules import EventHandler, Module, Query, QueryHandler, Registry, load_modules
from erpkit.sample.billing import sql as billing
from erpkit.sample.billing.messages import Balance, GetBalance
from erpkit.sample.catalog.messages import AddProduct
from erpkit.sample.inventory.messages import ReceiveStock
from erpkit.tenants import create_tenant


@dataclass(frozen=True)
class Counted:
    number: int


@dataclass(frozen=True)
class Publish(Query[int]):
    pass


@dataclass(frozen=True)
class Write(Query[int]):
    pass


stored: list[str] = []
attempts: list[int] = []
release = threading.Event()


def _write(event: Counted, context: Context) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"seen {event.number}"])


def _third_time_lucky(event: Counted, context: Context) -> None:
    _write(event, context)
    context.publish(Counted(100 + context.attempt))
    attempts.append(context.attempt)
    if context.attempt < 3:
        context.connection.execute("SELECT 1 / 0")


def _sleep_long(event: Counted, context: Context) -> None:
    _write(event, context)
    context.connection.execute("SELECT pg_sleep(60)")


def _sleep_often(event: Counted, context: Context) -> None:
    for _ in range(1000):
        context.connection.execute("SELECT pg_sleep(0.06)")


def _hang(event: Counted, context: Context) -> None:
    assert release.wait(30)


def _drop_connection(event: Counted, context: Context) -> None:
    (pid,) = context.connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
    with psycopg.connect(context.connection.info.dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])
    context.connection.execute("SELECT 1")


def _answer_and_publish(query: Publish, context: Context) -> int:
    context.publish(Counted(1))
    return 1


def _answer_and_write(query: Write, context: Context) -> int:
    context.connection.execute("INSERT INTO catalog_categories VALUES ('x')")
    return 1


def _store(context: Context, error: Exception) -> None:
    context.connection.execute("INSERT INTO catalog_categories VALUES (%s)", [f"dead {context.message.uuid}"])
    stored.append(f"{type(error).__name__}: {error}")


ANSWERS = (QueryHandler(Publish, _answer_and_publish), QueryHandler(Write, _answer_and_write))
COUNTER = Registry.of([Module("counter", publishes=(Counted,), answers=ANSWERS)])


@pytest.fixture(scope="module")
def acme(shared_database: Database) -> Tenant:
    modules = load_modules(Settings(modules="erpkit.sample")).modules
    return create_tenant(shared_database, read_migrations(modules), "acme")


@pytest.fixture(autouse=True)
def _fresh(shared_database: Database, acme: Tenant) -> None:
    stored.clear()
    attempts.clear()
    release.clear()
    with shared_database.tenant_transaction(acme, write=True) as connection:
        connection.execute("DELETE FROM catalog_categories")


def _handler(function: Callable[[Counted, Context], None], timeout: float | None = None) -> EventHandler:
    return EventHandler(f"counter.{function.__name__}", Counted, function, timeout=timeout)


def _message(number: int = 1) -> Message:
    return Message("counter.Counted", {"number": number}, uuid4(), offset=number)


def _categories(connection: Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM catalog_categories ORDER BY 1")]


def test_each_attempt_begins_where_the_first_one_did(shared_database: Database, acme: Tenant) -> None:
    """What a failed attempt wrote and published is gone, the inbox row too, and the transaction goes on."""
    message = _message()
    with shared_database.tenant_transaction(acme, write=True) as connection:
        published = handle(connection, Consumer(acme, COUNTER, _handler(_third_time_lucky)), message, isolated(_store))
        assert attempts == [1, 2, 3]
        assert [m.payload for m in published] == [{"number": 103}]
        assert (_categories(connection), stored) == (["seen 1"], [])


def test_a_message_that_was_handled_is_left_out(shared_database: Database, acme: Tenant) -> None:
    message, handler = _message(), _handler(_write)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        handle(connection, Consumer(acme, COUNTER, handler), message, isolated(_store))
    with shared_database.tenant_transaction(acme, write=True) as connection:
        handle(
            connection, Consumer(acme, COUNTER, handler), message, isolated(_store)
        )  # a second row would be a duplicate key
        assert (_categories(connection), stored) == (["seen 1"], [])


def test_a_message_that_keeps_failing_is_stored_and_those_behind_it_are_handled(
    shared_database: Database, acme: Tenant
) -> None:
    bad, good = _message(1), _message(2)
    with shared_database.tenant_transaction(acme, write=True) as connection:
        handle(connection, Consumer(acme, COUNTER, _handler(_sleep_long, 0.05)), bad, isolated(_store, attempts=2))
        handle(connection, Consumer(acme, COUNTER, _handler(_write)), good, isolated(_store))
    with shared_database.tenant_transaction(acme) as connection:
        assert _categories(connection) == [f"dead {bad.uuid}", "seen 2"]
        inbox = connection.execute("SELECT uuid FROM erpkit_inbox WHERE uuid IN (%s, %s)", [bad.uuid, good.uuid])
        assert inbox.fetchall() == [(good.uuid,)]
    assert stored == ["HandlerTimeoutError: tenant acme: counter._sleep_long took longer than its 0.05 s"]


def test_a_payload_that_does_not_fit_is_stored_without_more_attempts(shared_database: Database, acme: Tenant) -> None:
    message = Message("counter.Counted", {"number": "many"})
    with shared_database.tenant_transaction(acme, write=True) as connection:
        handle(connection, Consumer(acme, COUNTER, _handler(_write)), message, isolated(_store))
    assert stored[0].startswith("PayloadError: Counted.number")


def test_a_lost_connection_is_no_fault_of_the_message(shared_database: Database, acme: Tenant) -> None:
    with pytest.raises(DatabaseError, match=r"tenant acme: counter\._drop_connection on .* the connection was lost"):  # noqa: SIM117
        with shared_database.tenant_transaction(acme, write=True) as connection:
            handle(connection, Consumer(acme, COUNTER, _handler(_drop_connection)), _message(), isolated(_store))
    assert stored == []


@pytest.mark.parametrize("function", [_sleep_long, _sleep_often])
def test_a_handler_that_waits_for_the_database_too_long_is_cancelled(
    shared_database: Database, acme: Tenant, function: Callable[[Counted, Context], None]
) -> None:
    """One statement that takes too long, and many that take too long together."""
    with shared_database.tenant_transaction(acme, write=True) as connection:
        before = connection.execute("SHOW statement_timeout").fetchone()
        started = time.monotonic()
        with pytest.raises(HandlerTimeoutError, match="took longer than its 0.15 s"), connection.transaction():
            handle(connection, Consumer(acme, COUNTER, _handler(function, 0.15)), _message())
        assert time.monotonic() - started < 50  # and not the minute that it would take
        assert connection.execute("SHOW statement_timeout").fetchone() == before
        assert _categories(connection) == []


def test_a_handler_that_keeps_to_its_time_changes_no_setting(shared_database: Database, acme: Tenant) -> None:
    with shared_database.tenant_transaction(acme, write=True) as connection:
        before = connection.execute("SHOW statement_timeout").fetchone()
        handle(connection, Consumer(acme, COUNTER, _handler(_write, 5)), _message())
        assert connection.execute("SHOW statement_timeout").fetchone() == before
        assert _categories(connection) == ["seen 1"]
    assert overdue(grace=-5) == []


def test_a_handler_that_hangs_outside_the_database_is_reported_and_refused_when_it_ends(
    shared_database: Database, acme: Tenant
) -> None:
    errors: list[Exception] = []

    def work() -> None:
        try:
            with shared_database.tenant_transaction(acme, write=True) as connection:
                handle(connection, Consumer(acme, COUNTER, _handler(_hang, 0.05)), _message())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not (found := overdue(grace=0.01)):
        assert thread.is_alive()
    assert [(running.handler, running.tenant, running.seconds) for running in found] == [
        ("counter._hang", "acme", 0.05)
    ]
    release.set()
    thread.join()
    assert [str(error) for error in errors] == ["tenant acme: counter._hang took longer than its 0.05 s"]
    assert overdue(grace=0) == []


def test_a_query_is_answered_in_a_transaction_that_only_reads(
    shared_database: Database, acme: Tenant, registry: Registry
) -> None:
    invoice = uuid4()
    with shared_database.tenant_transaction(acme, write=True) as connection:
        billing.book_invoice(connection, invoice, Decimal("10.50"), date(2026, 2, 3))
    bus = QueryBus(shared_database, registry)
    balance = bus.ask(acme, GetBalance(invoice))
    assert (balance, balance.due) == (Balance(Decimal("10.50"), Decimal(0)), Decimal("10.50"))
    with pytest.raises(ErpkitError, match=f"invoice {UUID(int=1)} is not in the ledger"):
        bus.ask(acme, GetBalance(UUID(int=1)))


def test_a_query_changes_nothing_and_publishes_nothing(shared_database: Database, acme: Tenant) -> None:
    bus = QueryBus(shared_database, COUNTER)
    with pytest.raises(ErpkitError, match=r"counter\.Publish: a query cannot publish events: make it a command"):
        bus.ask(acme, Publish())
    with pytest.raises(ErpkitError, match="tenant acme: Write failed: (cannot execute INSERT|permission denied)"):
        bus.ask(acme, Write())
    with pytest.raises(ModuleError, match="query GetBalance has no handler"):
        bus.ask(acme, GetBalance(UUID(int=1)))


def test_an_old_event_in_the_log_is_handled_as_the_present_one_and_a_newer_one_becomes_a_dead_letter(
    database: Database, migrations: tuple[Migration, ...], registry: Registry
) -> None:
    tenant = create_tenant(database, migrations, "bluebird")
    topic = "inventory.StockReceived"
    with database.tenant_transaction(tenant, write=True) as connection:
        append(connection, [Message(topic, {"sku": "A-001", "quantity": 5})])
        append(connection, [Message(topic, {"sku": "A-001", "parcels": 1}, metadata={"version": "3"})])
    bus = CommandBus(database, registry)
    bus.send(tenant, AddProduct("A-001", "Lamp", "Light", Decimal(20)))
    bus.send(tenant, ReceiveStock("A-001", 2))
    result = dispatch(database, tenant, registry)
    assert (result.handled, result.dead) == (3, 1)
    with database.tenant_transaction(tenant) as connection:
        written = [(m.payload, m.version) for m in read_events(connection, topic, 2, 10)]
    assert written == [({"sku": "A-001", "pieces": 2}, 2)]
    with database.connection() as connection:
        (letter,) = list_dead_letters(connection, [tenant])
    assert "is of version 3, and 2 is the newest known here" in letter.error
